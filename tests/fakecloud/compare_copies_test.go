package fakecloud_test

// This part of the script compares snapshots, clones, backups and the volumes made from them.

func (c *comparedCloud) recordSnapshots() {
	snap := func(label, version string, v object) apiCall {
		v["volume_id"] = "{volume-1}"
		return httpPost(label, "/snapshots", object{"snapshot": v}).at(version)
	}
	from := func(label string, v object) apiCall {
		return httpPost(label, "/volumes", object{"volume": v}).at("3.70")
	}
	first := snap("snapshot", "", object{"name": "fc-s", "metadata": object{"a": "b"}}).saveAs("snapshot-1")
	restored := from("volume from a snapshot", object{
		"size":        3,
		"snapshot_id": "{snapshot-1}",
		"name":        "fc-3",
	}).saveAs("volume-3")
	clone := from("clone", object{"source_volid": "{volume-1}", "name": "fc-4"}).saveAs("volume-4")
	c.recordAll(
		snap("snapshot with force false since 3.66", "3.66", object{"force": false}),
		httpPost("snapshot of an unknown volume", "/snapshots", object{"snapshot": object{"volume_id": unknownID}}),
		first,
	)
	c.recordStates("snapshot made", "/snapshots/{snapshot-1}", "snapshot", "available")
	c.recordAll(
		httpGet("snapshot shown", "/snapshots/{snapshot-1}"),
		httpGet("snapshot shown by 3.70", "/snapshots/{snapshot-1}").at("3.70"),
		httpGet("unknown snapshot", "/snapshots/"+unknownID),
		httpGet("snapshots", "/snapshots?limit=1&name=fc-s"),
		httpGet("snapshots in detail", "/snapshots/detail?limit=1&volume_id={volume-1}").at("3.70"),
		httpGet("snapshots by name", "/snapshots/detail?name=fc-s").at("3.70"),
		httpGet("snapshots by an unknown filter", "/snapshots/detail?color=red").at("3.70"),
		httpGet("snapshots after an unknown marker", "/snapshots?marker="+unknownID),
		httpDelete("volume with a snapshot deleted", "/volumes/{volume-1}"),
		from("volume smaller than the snapshot", object{"size": 1, "snapshot_id": "{snapshot-1}"}),
		from("clone smaller than the source", object{"size": 1, "source_volid": "{volume-1}"}),
		from("volume from a snapshot in an unknown zone", object{
			"size":              3,
			"snapshot_id":       "{snapshot-1}",
			"availability_zone": "nowhere",
		}),
		restored, clone,
	)
	c.recordStates("restored", "/volumes/{volume-3}", "volume", "available")
	c.recordStates("cloned", "/volumes/{volume-4}", "volume", "available")
	c.recordAll(
		httpGet("restored volume", "/volumes/{volume-3}").at("3.70"),
		httpGet("cloned volume", "/volumes/{volume-4}").at("3.70"),
		httpDelete("snapshot with a clone deleted", "/snapshots/{snapshot-1}"),
	)
	c.recordStates("snapshot kept for its clone", "/snapshots/{snapshot-1}", "snapshot", "available")
	c.recordAll(
		httpGet("message of the snapshot", "/messages?resource_uuid={snapshot-1}").at("3.5"),
		httpDelete("clone of the snapshot deleted", "/volumes/{volume-3}"),
	)
	c.recordStates("clone of the snapshot gone", "/volumes/{volume-3}", "volume", "404")
	c.record(httpDelete("snapshot deleted", "/snapshots/{snapshot-1}"))
	c.recordStates("snapshot gone", "/snapshots/{snapshot-1}", "snapshot", "404")
	c.recordAll(
		httpDelete("snapshot deleted again", "/snapshots/{snapshot-1}"),
		httpGet("deleted snapshot", "/snapshots/{snapshot-1}"),
		httpPost("create from a deleted snapshot", "/volumes", object{
			"volume": object{"size": 3, "snapshot_id": "{snapshot-1}"},
		}),
	)
}

// recordUnknownObjects sends calls for objects that do not exist: the errors name those objects.
func (c *comparedCloud) recordUnknownObjects() {
	const capitals = "ABCDEF01-2222-4333-8444-ABCDEF012345"
	c.ids["volume"] = unknownID
	defer delete(c.ids, "volume")
	c.recordAll(
		httpDelete("delete an unknown volume", "/volumes/"+unknownID),
		httpGet("unknown volume in capitals", "/volumes/"+capitals),
		volumeAction("retype an unknown volume", "volume", "", "os-retype", object{
			"new_type":         "rbd",
			"migration_policy": "never",
		}),
		volumeAction("retype an unknown volume to nothing known", "volume", "", "os-retype", object{
			"new_type":         "nope",
			"migration_policy": "never",
		}),
		volumeAction("extend an unknown volume in use", "volume", "3.42", "os-extend", object{"new_size": 9}),
		httpPost("metadata of an unknown volume", "/volumes/"+unknownID+"/metadata", object{"metadata": object{"a": "b"}}),
		httpPost("snapshot of an unknown volume by 3.66", "/snapshots", object{
			"snapshot": object{"volume_id": unknownID},
		}).at("3.66"),
		httpDelete("delete an unknown snapshot", "/snapshots/"+unknownID),
		httpPost("backup of an unknown snapshot", "/backups", object{
			"backup": object{"volume_id": "{volume-2}", "snapshot_id": unknownID},
		}),
		httpDelete("delete an unknown backup", "/backups/"+unknownID),
		httpGet("unknown backup by 3.51", "/backups/"+unknownID).at("3.51"),
		httpDelete("delete an unknown record", "/attachments/"+unknownID).at("3.27"),
		httpGet("attachment of an unknown server", "compute:/servers/"+unknownID+"/os-volume_attachments/{volume-2}"),
		httpDelete("detach from an unknown server", "compute:/servers/"+unknownID+"/os-volume_attachments/{volume-2}"),
		httpGet("attachment that is not there", attachments+"/{volume-2}"),
		httpGet("attachment that is not there by 2.93", attachments+"/{volume-2}").at("2.93"),
		httpGet("attachment of an unknown volume", attachments+"/"+unknownID),
	)
}

func (c *comparedCloud) recordBackups() {
	backup := func(label string, v object) apiCall {
		return httpPost(label, "/backups", object{"backup": v}).at("3.70")
	}
	first := backup("backup", object{
		"volume_id": "{volume-2}",
		"name":      "fc-b",
		"metadata":  object{"a": "b"},
	}).saveAs("backup-1")
	restored := httpPost("volume from a backup", "/volumes", object{
		"volume": object{"size": 2, "backup_id": "{backup-1}"},
	}).at("3.47").saveAs("volume-5")
	c.recordAll(
		backup("backup of an unknown volume", object{"volume_id": unknownID}),
		backup("increment of nothing", object{"volume_id": "{volume-2}", "incremental": true}),
		first,
		volumeAction("extend while backing up", "volume-2", "", "os-extend", object{"new_size": 9}),
		attachCall("attach while backing up", "", "{volume-2}"),
		httpDelete("delete a backup in the making", "/backups/{backup-1}"),
	)
	c.recordStates("backed up", "/backups/{backup-1}", "backup", "available")
	c.recordAll(
		httpGet("backup shown", "/backups/{backup-1}").at("3.70"),
		httpGet("backup shown by 3.0", "/backups/{backup-1}"),
		httpGet("unknown backup", "/backups/"+unknownID),
		httpGet("backups", "/backups?limit=1&name=fc-b"),
		httpGet("backups in detail", "/backups/detail?limit=1&volume_id={volume-2}").at("3.70"),
		httpPost("volume smaller than the backup", "/volumes", object{
			"volume": object{"size": 0, "backup_id": "{backup-1}"},
		}).at("3.47"),
		restored,
	)
	c.recordStates("restored from a backup", "/volumes/{volume-5}", "volume", "available")
	c.recordAll(
		httpGet("volume restored from a backup", "/volumes/{volume-5}").at("3.70"),
		httpPost("backup restored to an unknown volume", "/backups/{backup-1}/restore", object{
			"restore": object{"volume_id": unknownID},
		}),
		httpPost("backup restored", "/backups/{backup-1}/restore", object{"restore": object{"volume_id": "{volume-5}"}}),
	)
	c.recordStates("written over by a backup", "/volumes/{volume-5}", "volume", "available")
	c.recordStates("backup after the restore", "/backups/{backup-1}", "backup", "available")
	c.record(backup("increment", object{"volume_id": "{volume-2}", "incremental": true}).saveAs("backup-2"))
	c.recordStates("increment made", "/backups/{backup-2}", "backup", "available")
	c.recordAll(
		httpGet("increment shown", "/backups/{backup-2}").at("3.70"),
		httpDelete("backup with an increment deleted", "/backups/{backup-1}"),
		httpDelete("increment deleted", "/backups/{backup-2}"),
	)
	c.recordStates("increment gone", "/backups/{backup-2}", "backup", "404")
	c.recordAll(
		httpDelete("backup deleted", "/backups/{backup-1}"),
	)
	c.recordStates("backup gone", "/backups/{backup-1}", "backup", "404")
}

// recordCopiesInUse takes copies of a volume that a server uses.
func (c *comparedCloud) recordCopiesInUse() {
	snap := func(label, version, save string, v object) apiCall {
		v["volume_id"] = "{volume-1}"
		return httpPost(label, "/snapshots", object{"snapshot": v}).at(version).saveAs(save)
	}
	c.recordAll(
		snap("snapshot in use with force", "3.0", "snapshot-2", object{"force": true}),
		snap("snapshot in use since 3.66", "3.66", "snapshot-3", object{}),
		snap("snapshot in use since 3.66 with force", "3.66", "snapshot-4", object{"force": true}),
		httpPost("clone in use", "/volumes", object{"volume": object{"source_volid": "{volume-1}"}}).saveAs("volume-8"),
		httpPost("backup in use with force", "/backups", object{
			"backup": object{"volume_id": "{volume-1}", "force": true},
		}).saveAs("backup-3"),
	)
	for _, n := range []string{"snapshot-2", "snapshot-3", "snapshot-4"} {
		c.recordStates(n+" made", "/snapshots/{"+n+"}", "snapshot", "available")
	}
	c.recordStates("cloned in use", "/volumes/{volume-8}", "volume", "available")
	c.recordStates("backed up in use", "/backups/{backup-3}", "backup", "available")
	c.recordStates("in use after the backup", "/volumes/{volume-1}", "volume", "in-use")
	c.record(httpPost("backup of a snapshot", "/backups", object{
		"backup": object{"volume_id": "{volume-1}", "snapshot_id": "{snapshot-2}"},
	}).saveAs("backup-4"))
	c.recordStates("backed up from a snapshot", "/backups/{backup-4}", "backup", "available")
	c.record(httpGet("backup of a snapshot shown", "/backups/{backup-4}").at("3.70"))
	for _, n := range []string{"snapshot-2", "snapshot-3", "snapshot-4"} {
		c.record(httpDelete(n+" deleted", "/snapshots/{"+n+"}"))
		c.recordSnapshotDeletion(n)
	}
}

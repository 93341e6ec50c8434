package fakecloud_test

import "net/http"

func attach(label, version, volume string) ask {
	return ask{label: label, method: http.MethodPost, path: "compute:/servers/{server}/os-volume_attachments", version: version, body: m{"volumeAttachment": m{"volumeId": volume}}}
}

func (s *side) attachPart() {
	attachments := "compute:/servers/{server}/os-volume_attachments"
	s.reset("reset before the attach", "volume-2", "error")
	s.all(
		ask{label: "server", path: "compute:/servers/{server}"},
		ask{label: "server of 2.93", path: "compute:/servers/{server}", version: "2.93"},
		ask{label: "unknown server", path: "compute:/servers/" + unknownID},
		ask{label: "attachments of an unknown server", path: "compute:/servers/" + unknownID + "/os-volume_attachments"},
		ask{label: "attach to an unknown server", method: http.MethodPost, path: "compute:/servers/" + unknownID + "/os-volume_attachments", body: m{"volumeAttachment": m{"volumeId": "{volume-1}"}}},
		attach("attach an unknown volume", "", unknownID),
		attach("attach no ID", "", "abc"),
		attach("attach in error", "", "{volume-2}"),
		ask{label: "attachments of a bare server", path: attachments},
		attach("attach", "2.79", "{volume-1}"),
	)
	s.watch("attached", "/volumes/{volume-1}", "volume", "in-use")
	s.reset("reset after the attach", "volume-2", "available")
	s.all(
		ask{label: "volume in use", path: "/volumes/{volume-1}", version: "3.70"},
		ask{label: "attachments", path: attachments},
		ask{label: "attachments of 2.89", path: attachments, version: "2.89"},
		ask{label: "attachment", path: attachments + "/{volume-1}"},
		ask{label: "attachment of 2.93", path: attachments + "/{volume-1}", version: "2.93"},
		ask{label: "records of the attachment", path: "/attachments?volume_id={volume-1}", version: "3.70"},
		ask{label: "records in detail", path: "/attachments/detail?volume_id={volume-1}", version: "3.70"},
		ask{label: "records before 3.27", path: "/attachments", version: "3.26"},
		ask{label: "unknown record", path: "/attachments/" + unknownID, version: "3.70"},
		attach("attach again", "2.79", "{volume-1}"),
		ask{label: "server with a volume", path: "compute:/servers/{server}", version: "2.93"},
		action("extend in use by 3.41", "volume-1", "3.41", "os-extend", m{"new_size": 3}),
		action("extend in use by 3.0", "volume-1", "", "os-extend", m{"new_size": 3}),
		ask{label: "snapshot in use without force", method: http.MethodPost, path: "/snapshots", body: m{"snapshot": m{"volume_id": "{volume-1}"}}},
		ask{label: "backup in use without force", method: http.MethodPost, path: "/backups", body: m{"backup": m{"volume_id": "{volume-1}"}}},
		ask{label: "delete in use", method: http.MethodDelete, path: "/volumes/{volume-1}"},
		action("retype in use to a shareable type", "volume-1", "", "os-retype", m{"new_type": "rbd-multi", "migration_policy": "never"}),
	)
	s.inUsePart()
	s.lockedPart()
	s.all(
		action("extend in use", "volume-1", "3.42", "os-extend", m{"new_size": 3}),
	)
	s.ids["size"] = "3"
	s.watch("extended in use", "/volumes/{volume-1}", "volume", "in-use")
	delete(s.ids, "size")
	s.eventsPart()
	s.all(
		ask{label: "detach what is not attached", method: http.MethodDelete, path: attachments + "/{volume-4}"},
		ask{label: "detach an unknown volume", method: http.MethodDelete, path: attachments + "/" + unknownID},
		ask{label: "detach", method: http.MethodDelete, path: attachments + "/{volume-1}"},
		ask{label: "detach while detaching", method: http.MethodDelete, path: attachments + "/{volume-1}"},
	)
	s.watch("detached", "/volumes/{volume-1}", "volume", "available")
	s.states("attachment gone", attachments+"/{volume-1}", "volumeAttachment", "404")
	s.all(
		ask{label: "attachment after the detach", path: attachments + "/{volume-1}"},
		ask{label: "detach again", method: http.MethodDelete, path: attachments + "/{volume-1}"},
	)
}

// inUsePart takes copies of a volume that a server uses.
func (s *side) inUsePart() {
	snap := func(label, version, save string, v m) ask {
		v["volume_id"] = "{volume-1}"
		return ask{label: label, method: http.MethodPost, path: "/snapshots", version: version, body: m{"snapshot": v}, save: save}
	}
	s.all(
		snap("snapshot in use with force", "3.0", "snapshot-2", m{"force": true}),
		snap("snapshot in use since 3.66", "3.66", "snapshot-3", m{}),
		snap("snapshot in use since 3.66 with force", "3.66", "snapshot-4", m{"force": true}),
		ask{label: "clone in use", method: http.MethodPost, path: "/volumes", body: m{"volume": m{"source_volid": "{volume-1}"}}, save: "volume-8"},
		ask{label: "backup in use with force", method: http.MethodPost, path: "/backups", body: m{"backup": m{"volume_id": "{volume-1}", "force": true}}, save: "backup-3"},
	)
	for _, n := range []string{"snapshot-2", "snapshot-3", "snapshot-4"} {
		s.watch(n+" made", "/snapshots/{"+n+"}", "snapshot", "available")
	}
	s.watch("cloned in use", "/volumes/{volume-8}", "volume", "available")
	s.watch("backed up in use", "/backups/{backup-3}", "backup", "available")
	s.watch("in use after the backup", "/volumes/{volume-1}", "volume", "in-use")
	s.run(ask{
		label: "backup of a snapshot", method: http.MethodPost, path: "/backups", save: "backup-4",
		body: m{"backup": m{"volume_id": "{volume-1}", "snapshot_id": "{snapshot-2}"}},
	})
	s.watch("backed up from a snapshot", "/backups/{backup-4}", "backup", "available")
	s.run(ask{label: "backup of a snapshot shown", path: "/backups/{backup-4}", version: "3.70"})
	for _, n := range []string{"snapshot-2", "snapshot-3", "snapshot-4"} {
		s.run(ask{label: n + " deleted", method: http.MethodDelete, path: "/snapshots/{" + n + "}"})
		s.watchGone(n)
	}
}

// lockedPart asks for changes of a server that its owner has locked.
func (s *side) lockedPart() {
	act := func(label, key string) ask {
		return ask{label: label, method: http.MethodPost, path: "compute:/servers/{server}/action", body: m{key: nil}}
	}
	s.all(
		act("unknown action of a server", "fly"),
		act("locked", "lock"),
		ask{label: "locked server", path: "compute:/servers/{server}", version: "2.93"},
		attach("attach to a locked server", "", "{volume-4}"),
		ask{label: "detach from a locked server", method: http.MethodDelete, path: "compute:/servers/{server}/os-volume_attachments/{volume-1}"},
		act("unlocked", "unlock"),
	)
}

func (s *side) eventsPart() {
	events := func(label, server, tag string, admin bool) ask {
		e := m{"name": "volume-extended", "server_uuid": server}
		if tag != "" {
			e["tag"] = tag
		}
		return ask{label: label, method: http.MethodPost, path: "compute:/os-server-external-events", version: "2.51", body: m{"events": []any{e}}, admin: admin}
	}
	s.all(
		events("event by the user", "{server}", "{volume-1}", false),
		events("event", "{server}", "{volume-1}", true),
		events("event for an unknown server", unknownID, "{volume-1}", true),
		events("event without a tag", "{server}", "", true),
	)
}

func (s *side) multiattachPart() {
	create := ask{label: "create shareable", method: http.MethodPost, path: "/volumes", body: m{"volume": m{"size": 1, "volume_type": "rbd-multi"}}, save: "volume-6"}
	s.run(create)
	s.watch("created shareable", "/volumes/{volume-6}", "volume", "available")
	s.all(
		attach("attach shareable before 2.60", "2.59", "{volume-6}"),
		attach("attach shareable", "2.60", "{volume-6}"),
	)
	s.watch("attached shareable", "/volumes/{volume-6}", "volume", "in-use")
	s.all(
		attach("attach shareable again", "2.60", "{volume-6}"),
		ask{label: "detach shareable", method: http.MethodDelete, path: "compute:/servers/{server}/os-volume_attachments/{volume-6}"},
	)
	s.watch("detached shareable", "/volumes/{volume-6}", "volume", "available")
}

// serverPart deletes a server that has a volume.
func (s *side) serverPart() {
	s.all(
		ask{label: "servers", path: "compute:/servers?limit=1"},
		attach("attach before the end", "2.79", "{volume-4}"),
	)
	s.watch("attached before the end", "/volumes/{volume-4}", "volume", "in-use")
	s.all(
		ask{label: "server deleted", method: http.MethodDelete, path: "compute:/servers/{server}"},
		attach("attach to a server being deleted", "", "{volume-2}"),
		ask{label: "detach from a server being deleted", method: http.MethodDelete, path: "compute:/servers/{server}/os-volume_attachments/{volume-4}"},
		ask{label: "server being deleted", path: "compute:/servers/{server}", version: "2.93"},
	)
	s.watch("detached by the end", "/volumes/{volume-4}", "volume", "available")
	s.watch("server gone", "compute:/servers/{server}", "server", "404")
	s.all(
		ask{label: "server deleted again", method: http.MethodDelete, path: "compute:/servers/{server}"},
		ask{label: "deleted server", path: "compute:/servers/{server}"},
		ask{label: "attachment of a deleted server", path: "compute:/servers/{server}/os-volume_attachments/{volume-4}"},
		ask{label: "detach from a deleted server", method: http.MethodDelete, path: "compute:/servers/{server}/os-volume_attachments/{volume-4}"},
		attach("attach to a deleted server", "", "{volume-2}"),
	)
}

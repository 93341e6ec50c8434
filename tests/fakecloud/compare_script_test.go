package fakecloud_test

import (
	"net/http"
	"strings"
)

type m = map[string]any

// script is the conversation with both clouds. Names in braces are IDs that
// earlier steps saved; volume-…, snapshot-… and backup-… are deleted at the
// end.
func (s *side) script() {
	s.Helper()
	s.identityPart()
	s.discoveryPart()
	s.inventoryPart()
	s.createPart()
	s.listPart()
	s.metadataPart()
	s.extendPart()
	s.snapshotPart()
	s.gonePart()
	s.retypePart()
	s.backupPart()
	s.attachPart()
	s.multiattachPart()
	s.encryptedPart()
	s.serverPart()
	s.deletePart()
}

func (s *side) all(asks ...ask) {
	s.Helper()
	for _, a := range asks {
		s.run(a)
	}
}

const unknownID = "11111111-2222-4333-8444-555555555555"

func (s *side) identityPart() {
	tokens := "identity:/auth/tokens"
	s.all(
		ask{label: "identity version", path: "identity:", header: map[string]string{"X-Auth-Token": ""}},
		ask{label: "token with a scope", method: http.MethodPost, path: tokens, body: passwordAuth("csi", s.ids["password"], "csi")},
		ask{label: "token without a scope", method: http.MethodPost, path: tokens, body: passwordAuth("csi", s.ids["password"], "")},
		ask{label: "token with a wrong password", method: http.MethodPost, path: tokens, body: passwordAuth("csi", "wrong", "csi")},
		ask{label: "token for a foreign project", method: http.MethodPost, path: tokens, body: passwordAuth("csi", s.ids["password"], "admin")},
		ask{label: "token of nobody", method: http.MethodPost, path: tokens, body: m{"auth": m{}}},
		ask{label: "own token", path: tokens, header: map[string]string{"X-Subject-Token": s.user}},
		ask{label: "unknown token", path: tokens, header: map[string]string{"X-Subject-Token": "x"}},
		ask{label: "token by token", method: http.MethodPost, path: tokens, body: m{"auth": m{
			"identity": m{"methods": []string{"token"}, "token": m{"id": s.user}}, "scope": m{"project": m{"name": "csi", "domain": m{"name": "Default"}}},
		}}},
	)
}

func (s *side) discoveryPart() {
	none := map[string]string{"X-Auth-Token": ""}
	s.all(
		ask{label: "cinder versions", path: "root:/", header: none},
		ask{label: "cinder v3 without a token", path: "root:/v3/", header: none},
		ask{label: "cinder v3", path: "root:/v3/"},
		ask{label: "cinder project itself", path: ""},
		ask{label: "nova versions", path: "novaroot:/", header: none},
		ask{label: "nova v2.1 without a token", path: "compute:/", header: none},
		ask{label: "nova v2.1", path: "compute:/"},
		ask{label: "cinder without a token", path: "/volumes", header: none},
		ask{label: "cinder with a wrong token", path: "/volumes", header: map[string]string{"X-Auth-Token": "x"}},
		ask{label: "nova without a token", path: "compute:/servers", header: none},
		ask{label: "cinder above the highest version", path: "/volumes", version: "3.999"},
		ask{label: "nova above the highest version", path: "compute:/servers", version: "2.999"},
		ask{label: "cinder with a strange version", path: "/volumes", version: "x"},
		ask{label: "nova with a strange version", path: "compute:/servers", version: "x"},
		ask{label: "cinder of another project", path: "root:/v3/00000000000000000000000000000000/volumes"},
		ask{label: "cinder without a project", path: "root:/v3/volumes?name=fc-nobody", version: "3.67"},
		ask{label: "unknown path of cinder", path: "/nothing"},
		ask{label: "unknown path of nova", path: "compute:/nothing"},
	)
}

func (s *side) inventoryPart() {
	s.all(
		ask{label: "types", path: "/types"},
		ask{label: "types of 3.70", path: "/types", version: "3.70"},
		ask{label: "types for the administrator", path: "/types", admin: true},
		ask{label: "types on pages", path: "/types?limit=1"},
		ask{label: "types with limit zero", path: "/types?limit=0"},
		ask{label: "types after an unknown marker", path: "/types?marker=" + unknownID},
		ask{label: "default type", path: "/types/default", save: "type"},
		ask{label: "type", path: "/types/{type}"},
		ask{label: "type by name", path: "/types/rbd"},
		ask{label: "unknown type", path: "/types/" + unknownID},
		ask{label: "zones", path: "/os-availability-zone"},
		ask{label: "limits", path: "/limits"},
		ask{label: "quota", path: "/os-quota-sets/{project}"},
		ask{label: "quota with usage", path: "/os-quota-sets/{project}?usage=true"},
		ask{label: "quota of others", path: "/os-quota-sets/00000000000000000000000000000000"},
		ask{label: "quota set by the user", method: http.MethodPut, path: "/os-quota-sets/{project}", body: m{"quota_set": m{"volumes": 1}}},
		ask{label: "messages of 3.0", path: "/messages"},
		ask{label: "messages of an unknown volume", path: "/messages?resource_uuid=" + unknownID, version: "3.5"},
		ask{label: "unknown message", path: "/messages/" + unknownID, version: "3.5"},
		ask{label: "messages by an unknown filter", path: "/messages?color=red", version: "3.31"},
	)
}

func (s *side) createPart() {
	create := func(label, version string, v m) ask {
		return ask{label: label, method: http.MethodPost, path: "/volumes", version: version, body: m{"volume": v}}
	}
	saved := create("create", "", m{"size": 1, "name": "fc-1", "description": "d", "metadata": m{"fc": "yes"}})
	saved.save = "volume-1"
	hints := create("create with a hint", "3.70", nil)
	hints.body = m{
		"volume":                     m{"size": 1, "name": "fc-2", "volume_type": "rbd", "availability_zone": "nova"},
		"OS-SCH-HNT:scheduler_hints": m{"different_host": []string{unknownID}},
	}
	hints.save = "volume-2"
	s.all(
		create("create of an unknown type", "", m{"size": 1, "volume_type": "nope"}),
		create("create of no size", "", m{"size": 0}),
		create("create without a size", "", m{"name": "x"}),
		create("create of a word's size", "", m{"size": "x"}),
		create("create of a negative size", "", m{"size": -1}),
		create("create in an unknown zone", "", m{"size": 1, "availability_zone": "nowhere"}),
		create("create over the quota", "", m{"size": 5000}),
		create("create from an unknown snapshot", "", m{"size": 1, "snapshot_id": unknownID}),
		create("create from an unknown volume", "", m{"size": 1, "source_volid": unknownID}),
		create("create from an unknown backup", "3.47", m{"size": 1, "backup_id": unknownID}),
		create("create from a backup before 3.47", "3.46", m{"size": 1, "backup_id": unknownID}),
		ask{label: "create of nothing", method: http.MethodPost, path: "/volumes", body: m{}},
		ask{label: "create of no JSON", method: http.MethodPost, path: "/volumes", body: "{"},
		saved, hints,
	)
	s.watch("created", "/volumes/{volume-1}", "volume", "available")
	s.watch("created with a hint", "/volumes/{volume-2}", "volume", "available")
	s.all(
		ask{label: "volume", path: "/volumes/{volume-1}"},
		ask{label: "volume of 3.70", path: "/volumes/{volume-1}", version: "3.70"},
		ask{label: "volume for the administrator", path: "/volumes/{volume-1}", version: "3.70", admin: true},
		ask{label: "unknown volume", path: "/volumes/" + unknownID},
		ask{label: "volume that is no ID", path: "/volumes/abc"},
	)
}

func (s *side) listPart() {
	list := func(label, query, version string) ask {
		return ask{label: "list " + label, path: "/volumes" + query, version: version}
	}
	s.all(
		list("names", "?limit=1&name=fc-1", ""),
		list("details", "/detail?limit=1&name=fc-1", "3.70"),
		list("details of 3.0", "/detail?limit=1&name=fc-2", ""),
		list("by name", "/detail?name=fc-1", "3.70"),
		list("by state", "/detail?status=available&name=fc-1", "3.70"),
		list("by metadata", "/detail?metadata=%7B%27fc%27%3A%27yes%27%7D&name=fc-1", "3.70"),
		list("by other metadata", "/detail?metadata=%7B%27fc%27%3A%27no%27%7D", "3.70"),
		list("by a name nobody has", "/detail?name=fc-nobody", ""),
		list("by part of a name", "/detail?name~=fc-&limit=1", "3.70"),
		list("by part of a name before 3.34", "/detail?name~=fc-&limit=1", "3.33"),
		list("by an unknown filter", "/detail?color=red", "3.70"),
		list("by an unknown filter of 3.0", "?color=red&limit=1&name=fc-1", ""),
		list("by ID", "/detail?id={volume-1}", "3.70"),
		list("with a count", "/detail?with_count=true&name=fc-1", "3.70"),
		list("newest change first", "/detail?sort=updated_at:desc&limit=1&name=fc-1", "3.70"),
		list("by an unknown key", "?sort=color", ""),
		list("in an unknown direction", "?sort=name:up", ""),
		list("with two kinds of sorting", "?sort=name&sort_key=id", ""),
		list("after an unknown marker", "?marker="+unknownID, ""),
		list("with a word as limit", "?limit=x", ""),
		list("with a negative limit", "?limit=-1", ""),
		list("with limit zero", "?limit=0", ""),
	)
}

func (s *side) metadataPart() {
	path := "/volumes/{volume-1}/metadata"
	s.all(
		ask{label: "metadata", path: path},
		ask{label: "metadata added", method: http.MethodPost, path: path, body: m{"metadata": m{"a": "b"}}},
		ask{label: "metadata replaced", method: http.MethodPut, path: path, body: m{"metadata": m{"c": "d"}}},
		ask{label: "metadata deleted", method: http.MethodDelete, path: path + "/c"},
		ask{label: "metadata deleted again", method: http.MethodDelete, path: path + "/c"},
		ask{label: "metadata of an odd key", method: http.MethodPost, path: path, body: m{"metadata": m{"a*": "b"}}},
		ask{label: "metadata of a long value", method: http.MethodPost, path: path, body: m{"metadata": m{"a": strings.Repeat("x", 256)}}},
		ask{label: "metadata without a value", method: http.MethodPost, path: path, body: m{"metadata": m{"a": nil}}},
		ask{label: "create with an odd key", method: http.MethodPost, path: "/volumes", body: m{"volume": m{"size": 1, "metadata": m{"a*": "b"}}}},
		ask{label: "snapshot with an odd key", method: http.MethodPost, path: "/snapshots", body: m{"snapshot": m{"volume_id": "{volume-1}", "metadata": m{"a*": "b"}}}},
		ask{label: "backup with an odd key", method: http.MethodPost, path: "/backups", version: "3.70", body: m{"backup": m{"volume_id": "{volume-1}", "metadata": m{"a*": "b"}}}},
	)
	s.reset("maintenance", "volume-1", "maintenance")
	s.run(ask{label: "metadata in maintenance", method: http.MethodPost, path: path, body: m{"metadata": m{"a": "b"}}})
	s.reset("end of maintenance", "volume-1", "available")
	s.all(
		ask{label: "renamed", method: http.MethodPut, path: "/volumes/{volume-1}", body: m{"volume": m{"name": "fc-one"}}},
	)
}

func action(label, volume, version, key string, body any) ask {
	return ask{label: label, method: http.MethodPost, path: "/volumes/{" + volume + "}/action", version: version, body: m{key: body}}
}

func (s *side) reset(label, volume, status string) {
	s.Helper()
	a := action(label, volume, "", "os-reset_status", m{"status": status})
	a.admin = true
	s.run(a)
}

func (s *side) extendPart() {
	extend := func(label string, size any) ask {
		return action("extend "+label, "volume-1", "", "os-extend", m{"new_size": size})
	}
	s.all(
		extend("to less", 0),
		extend("to the same", 1),
		extend("to a word", "x"),
		extend("over the quota", 5000),
		action("extend to nothing", "volume-1", "", "os-extend", m{}),
		ask{label: "extend an unknown volume", method: http.MethodPost, path: "/volumes/" + unknownID + "/action", body: m{"os-extend": m{"new_size": 2}}},
		action("unknown action", "volume-1", "", "os-nothing", m{}),
		action("reset by the user", "volume-1", "", "os-reset_status", m{"status": "error"}),
		extend("to two", 2),
	)
	s.ids["size"] = "2"
	s.watch("extended", "/volumes/{volume-1}", "volume", "available")
	delete(s.ids, "size")
	s.run(extend("beyond the backend", 990))
	s.watch("refused by the scheduler", "/volumes/{volume-1}", "volume", "available")
	s.all(
		ask{label: "volume after the refusal", path: "/volumes/{volume-1}"},
		ask{label: "message of the refusal", path: "/messages?resource_uuid={volume-1}", version: "3.5"},
		ask{label: "messages on pages", path: "/messages?resource_uuid={volume-1}&limit=1", version: "3.70"},
		ask{label: "messages after an unknown marker", path: "/messages?marker=" + unknownID, version: "3.70"},
		ask{label: "backups after an unknown marker", path: "/backups/detail?marker=" + unknownID},
		ask{label: "backups by an unknown filter", path: "/backups/detail?color=red", version: "3.70"},
	)
	s.reset("reset to error_extending", "volume-1", "error_extending")
	s.all(
		extend("in error_extending", 3),
		action("extend in error_extending with 3.42", "volume-1", "3.42", "os-extend", m{"new_size": 3}),
		ask{label: "snapshot in error_extending", method: http.MethodPost, path: "/snapshots", body: m{"snapshot": m{"volume_id": "{volume-1}"}}},
	)
	s.reset("reset to error", "volume-1", "error")
	s.run(ask{label: "snapshot in error", method: http.MethodPost, path: "/snapshots", body: m{"snapshot": m{"volume_id": "{volume-1}"}}})
	s.reset("reset to in-use without an attachment", "volume-1", "in-use")
	s.reset("reset to available", "volume-1", "available")
}

func (s *side) snapshotPart() {
	snap := func(label, version string, v m) ask {
		v["volume_id"] = "{volume-1}"
		return ask{label: label, method: http.MethodPost, path: "/snapshots", version: version, body: m{"snapshot": v}}
	}
	from := func(label string, v m) ask {
		return ask{label: label, method: http.MethodPost, path: "/volumes", version: "3.70", body: m{"volume": v}}
	}
	first := snap("snapshot", "", m{"name": "fc-s", "metadata": m{"a": "b"}})
	first.save = "snapshot-1"
	restored := from("volume from a snapshot", m{"size": 3, "snapshot_id": "{snapshot-1}", "name": "fc-3"})
	restored.save = "volume-3"
	clone := from("clone", m{"source_volid": "{volume-1}", "name": "fc-4"})
	clone.save = "volume-4"
	s.all(
		snap("snapshot with force false since 3.66", "3.66", m{"force": false}),
		ask{label: "snapshot of an unknown volume", method: http.MethodPost, path: "/snapshots", body: m{"snapshot": m{"volume_id": unknownID}}},
		first,
	)
	s.watch("snapshot made", "/snapshots/{snapshot-1}", "snapshot", "available")
	s.all(
		ask{label: "snapshot shown", path: "/snapshots/{snapshot-1}"},
		ask{label: "snapshot shown by 3.70", path: "/snapshots/{snapshot-1}", version: "3.70"},
		ask{label: "unknown snapshot", path: "/snapshots/" + unknownID},
		ask{label: "snapshots", path: "/snapshots?limit=1&name=fc-s"},
		ask{label: "snapshots in detail", path: "/snapshots/detail?limit=1&volume_id={volume-1}", version: "3.70"},
		ask{label: "snapshots by name", path: "/snapshots/detail?name=fc-s", version: "3.70"},
		ask{label: "snapshots by an unknown filter", path: "/snapshots/detail?color=red", version: "3.70"},
		ask{label: "snapshots after an unknown marker", path: "/snapshots?marker=" + unknownID},
		ask{label: "volume with a snapshot deleted", method: http.MethodDelete, path: "/volumes/{volume-1}"},
		from("volume smaller than the snapshot", m{"size": 1, "snapshot_id": "{snapshot-1}"}),
		from("clone smaller than the source", m{"size": 1, "source_volid": "{volume-1}"}),
		from("volume from a snapshot in an unknown zone", m{"size": 3, "snapshot_id": "{snapshot-1}", "availability_zone": "nowhere"}),
		restored, clone,
	)
	s.watch("restored", "/volumes/{volume-3}", "volume", "available")
	s.watch("cloned", "/volumes/{volume-4}", "volume", "available")
	s.all(
		ask{label: "restored volume", path: "/volumes/{volume-3}", version: "3.70"},
		ask{label: "cloned volume", path: "/volumes/{volume-4}", version: "3.70"},
		ask{label: "snapshot with a clone deleted", method: http.MethodDelete, path: "/snapshots/{snapshot-1}"},
	)
	s.watch("snapshot kept for its clone", "/snapshots/{snapshot-1}", "snapshot", "available")
	s.all(
		ask{label: "message of the snapshot", path: "/messages?resource_uuid={snapshot-1}", version: "3.5"},
		ask{label: "clone of the snapshot deleted", method: http.MethodDelete, path: "/volumes/{volume-3}"},
	)
	s.watch("clone of the snapshot gone", "/volumes/{volume-3}", "volume", "404")
	s.run(ask{label: "snapshot deleted", method: http.MethodDelete, path: "/snapshots/{snapshot-1}"})
	s.watch("snapshot gone", "/snapshots/{snapshot-1}", "snapshot", "404")
	s.all(
		ask{label: "snapshot deleted again", method: http.MethodDelete, path: "/snapshots/{snapshot-1}"},
		ask{label: "deleted snapshot", path: "/snapshots/{snapshot-1}"},
		ask{label: "create from a deleted snapshot", method: http.MethodPost, path: "/volumes", body: m{"volume": m{"size": 3, "snapshot_id": "{snapshot-1}"}}},
	)
}

// gonePart asks for what does not exist, so that the fake names it as the real
// cloud does.
func (s *side) gonePart() {
	const capitals = "ABCDEF01-2222-4333-8444-ABCDEF012345"
	s.ids["volume"] = unknownID
	defer delete(s.ids, "volume")
	s.all(
		ask{label: "delete an unknown volume", method: http.MethodDelete, path: "/volumes/" + unknownID},
		ask{label: "unknown volume in capitals", path: "/volumes/" + capitals},
		action("retype an unknown volume", "volume", "", "os-retype", m{"new_type": "rbd", "migration_policy": "never"}),
		action("retype an unknown volume to nothing known", "volume", "", "os-retype", m{"new_type": "nope", "migration_policy": "never"}),
		action("extend an unknown volume in use", "volume", "3.42", "os-extend", m{"new_size": 9}),
		ask{label: "metadata of an unknown volume", method: http.MethodPost, path: "/volumes/" + unknownID + "/metadata", body: m{"metadata": m{"a": "b"}}},
		ask{label: "snapshot of an unknown volume by 3.66", method: http.MethodPost, path: "/snapshots", version: "3.66", body: m{"snapshot": m{"volume_id": unknownID}}},
		ask{label: "delete an unknown snapshot", method: http.MethodDelete, path: "/snapshots/" + unknownID},
		ask{label: "backup of an unknown snapshot", method: http.MethodPost, path: "/backups", body: m{"backup": m{"volume_id": "{volume-2}", "snapshot_id": unknownID}}},
		ask{label: "delete an unknown backup", method: http.MethodDelete, path: "/backups/" + unknownID},
		ask{label: "unknown backup by 3.51", path: "/backups/" + unknownID, version: "3.51"},
		ask{label: "delete an unknown record", method: http.MethodDelete, path: "/attachments/" + unknownID, version: "3.27"},
		ask{label: "attachment of an unknown server", path: "compute:/servers/" + unknownID + "/os-volume_attachments/{volume-2}"},
		ask{label: "detach from an unknown server", method: http.MethodDelete, path: "compute:/servers/" + unknownID + "/os-volume_attachments/{volume-2}"},
		ask{label: "attachment that is not there", path: "compute:/servers/{server}/os-volume_attachments/{volume-2}"},
		ask{label: "attachment that is not there by 2.93", path: "compute:/servers/{server}/os-volume_attachments/{volume-2}", version: "2.93"},
		ask{label: "attachment of an unknown volume", path: "compute:/servers/{server}/os-volume_attachments/" + unknownID},
	)
}

func (s *side) retypePart() {
	retype := func(label, to string) ask {
		return action(label, "volume-4", "", "os-retype", m{"new_type": to, "migration_policy": "never"})
	}
	s.all(retype("retype to nothing known", "nope"), retype("retype to the same", "rbd"), retype("retype", "rbd-gold"))
	s.watch("retyped", "/volumes/{volume-4}", "volume", "available")
	s.run(ask{label: "retyped volume", path: "/volumes/{volume-4}"})
}

func (s *side) backupPart() {
	backup := func(label string, v m) ask {
		return ask{label: label, method: http.MethodPost, path: "/backups", version: "3.70", body: m{"backup": v}}
	}
	first := backup("backup", m{"volume_id": "{volume-2}", "name": "fc-b", "metadata": m{"a": "b"}})
	first.save = "backup-1"
	restored := ask{label: "volume from a backup", method: http.MethodPost, path: "/volumes", version: "3.47", body: m{"volume": m{"size": 2, "backup_id": "{backup-1}"}}, save: "volume-5"}
	s.all(
		backup("backup of an unknown volume", m{"volume_id": unknownID}),
		backup("increment of nothing", m{"volume_id": "{volume-2}", "incremental": true}),
		first,
		action("extend while backing up", "volume-2", "", "os-extend", m{"new_size": 9}),
		attach("attach while backing up", "", "{volume-2}"),
		ask{label: "delete a backup in the making", method: http.MethodDelete, path: "/backups/{backup-1}"},
	)
	s.watch("backed up", "/backups/{backup-1}", "backup", "available")
	s.all(
		ask{label: "backup shown", path: "/backups/{backup-1}", version: "3.70"},
		ask{label: "backup shown by 3.0", path: "/backups/{backup-1}"},
		ask{label: "unknown backup", path: "/backups/" + unknownID},
		ask{label: "backups", path: "/backups?limit=1&name=fc-b"},
		ask{label: "backups in detail", path: "/backups/detail?limit=1&volume_id={volume-2}", version: "3.70"},
		ask{label: "volume smaller than the backup", method: http.MethodPost, path: "/volumes", version: "3.47", body: m{"volume": m{"size": 0, "backup_id": "{backup-1}"}}},
		restored,
	)
	s.watch("restored from a backup", "/volumes/{volume-5}", "volume", "available")
	s.all(
		ask{label: "volume restored from a backup", path: "/volumes/{volume-5}", version: "3.70"},
		ask{label: "backup restored to an unknown volume", method: http.MethodPost, path: "/backups/{backup-1}/restore", body: m{"restore": m{"volume_id": unknownID}}},
		ask{label: "backup restored", method: http.MethodPost, path: "/backups/{backup-1}/restore", body: m{"restore": m{"volume_id": "{volume-5}"}}},
	)
	s.watch("written over by a backup", "/volumes/{volume-5}", "volume", "available")
	s.watch("backup after the restore", "/backups/{backup-1}", "backup", "available")
	increment := backup("increment", m{"volume_id": "{volume-2}", "incremental": true})
	increment.save = "backup-2"
	s.run(increment)
	s.watch("increment made", "/backups/{backup-2}", "backup", "available")
	s.all(
		ask{label: "increment shown", path: "/backups/{backup-2}", version: "3.70"},
		ask{label: "backup with an increment deleted", method: http.MethodDelete, path: "/backups/{backup-1}"},
		ask{label: "increment deleted", method: http.MethodDelete, path: "/backups/{backup-2}"},
	)
	s.watch("increment gone", "/backups/{backup-2}", "backup", "404")
	s.all(
		ask{label: "backup deleted", method: http.MethodDelete, path: "/backups/{backup-1}"},
	)
	s.watch("backup gone", "/backups/{backup-1}", "backup", "404")
}

func (s *side) encryptedPart() {
	s.run(ask{label: "create encrypted", method: http.MethodPost, path: "/volumes", version: "3.70", body: m{"volume": m{"size": 1, "volume_type": "rbd-luks"}}, save: "volume-7"})
	s.watch("created encrypted", "/volumes/{volume-7}", "volume", "available")
	s.all(
		ask{label: "encrypted volume", path: "/volumes/{volume-7}", version: "3.70"},
		ask{label: "encrypted volume of 3.0", path: "/volumes/{volume-7}"},
		action("extend encrypted", "volume-7", "", "os-extend", m{"new_size": 2}),
	)
	s.watch("extended encrypted", "/volumes/{volume-7}", "volume", "available")
}

func (s *side) deletePart() {
	s.reset("reset before the deletion", "volume-1", "error_extending")
	s.run(ask{label: "delete in error_extending", method: http.MethodDelete, path: "/volumes/{volume-1}"})
	s.watch("deleted", "/volumes/{volume-1}", "volume", "404")
	s.all(
		ask{label: "delete again", method: http.MethodDelete, path: "/volumes/{volume-1}"},
		ask{label: "deleted volume", path: "/volumes/{volume-1}", version: "3.70"},
		action("extend a deleted volume", "volume-1", "3.42", "os-extend", m{"new_size": 9}),
		ask{label: "create from a deleted volume", method: http.MethodPost, path: "/volumes", body: m{"volume": m{"size": 9, "source_volid": "{volume-1}"}}},
	)
}

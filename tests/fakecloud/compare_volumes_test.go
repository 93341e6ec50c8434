package fakecloud_test

import (
	"strings"
)

// object is a JSON object of a request.
type object = map[string]any

// runScript sends the requests of the comparison to the cloud. Names in braces stand for IDs that
// earlier steps saved. cleanUp deletes volume-…, snapshot-… and backup-….
func (c *comparedCloud) runScript() {
	c.Helper()
	c.recordIdentity()
	c.recordDiscovery()
	c.recordInventory()
	c.recordCreation()
	c.recordLists()
	c.recordMetadata()
	c.recordExtension()
	c.recordSnapshots()
	c.recordUnknownObjects()
	c.recordRetype()
	c.recordBackups()
	c.recordAttachments()
	c.recordMultiattach()
	c.recordEncrypted()
	c.recordServerDeletion()
	c.recordDeletion()
}

// recordAll records the answers to several calls.
func (c *comparedCloud) recordAll(calls ...apiCall) {
	c.Helper()
	for _, a := range calls {
		c.record(a)
	}
}

// unknownID is the ID of no object.
const unknownID = "11111111-2222-4333-8444-555555555555"

func (c *comparedCloud) recordIdentity() {
	tokens := "identity:/auth/tokens"
	c.recordAll(
		httpGet("identity version", "identity:").withoutToken(),
		httpPost("token with a scope", tokens, passwordAuth("csi", c.ids["password"], "csi")),
		httpPost("token without a scope", tokens, passwordAuth("csi", c.ids["password"], "")),
		httpPost("token with a wrong password", tokens, passwordAuth("csi", "wrong", "csi")),
		httpPost("token for a foreign project", tokens, passwordAuth("csi", c.ids["password"], "admin")),
		httpPost("token of nobody", tokens, object{"auth": object{}}),
		httpGet("own token", tokens).with("X-Subject-Token", c.user),
		httpGet("unknown token", tokens).with("X-Subject-Token", "x"),
		httpPost("token by token", tokens, object{"auth": object{
			"identity": object{"methods": []string{"token"}, "token": object{"id": c.user}},
			"scope":    object{"project": object{"name": "csi", "domain": object{"name": "Default"}}},
		}}),
	)
}

func (c *comparedCloud) recordDiscovery() {
	c.recordAll(
		httpGet("cinder versions", "root:/").withoutToken(),
		httpGet("cinder v3 without a token", "root:/v3/").withoutToken(),
		httpGet("cinder v3", "root:/v3/"),
		httpGet("cinder project itself", ""),
		httpGet("nova versions", "novaroot:/").withoutToken(),
		httpGet("nova v2.1 without a token", "compute:/").withoutToken(),
		httpGet("nova v2.1", "compute:/"),
		httpGet("cinder without a token", "/volumes").withoutToken(),
		httpGet("cinder with a wrong token", "/volumes").with("X-Auth-Token", "x"),
		httpGet("nova without a token", "compute:/servers").withoutToken(),
		httpGet("cinder above the highest version", "/volumes").at("3.999"),
		httpGet("nova above the highest version", "compute:/servers").at("2.999"),
		httpGet("cinder with a strange version", "/volumes").at("x"),
		httpGet("nova with a strange version", "compute:/servers").at("x"),
		httpGet("cinder of another project", "root:/v3/00000000000000000000000000000000/volumes"),
		httpGet("cinder without a project", "root:/v3/volumes?name=fc-nobody").at("3.67"),
		httpGet("unknown path of cinder", "/nothing"),
		httpGet("unknown path of nova", "compute:/nothing"),
	)
}

func (c *comparedCloud) recordInventory() {
	c.recordAll(
		httpGet("types", "/types"),
		httpGet("types of 3.70", "/types").at("3.70"),
		httpGet("types for the administrator", "/types").asAdmin(),
		httpGet("types on pages", "/types?limit=1"),
		httpGet("types with limit zero", "/types?limit=0"),
		httpGet("types after an unknown marker", "/types?marker="+unknownID),
		httpGet("default type", "/types/default").saveAs("type"),
		httpGet("type", "/types/{type}"),
		httpGet("type by name", "/types/rbd"),
		httpGet("unknown type", "/types/"+unknownID),
		httpGet("zones", "/os-availability-zone"),
		httpGet("limits", "/limits"),
		httpGet("quota", "/os-quota-sets/{project}"),
		httpGet("quota with usage", "/os-quota-sets/{project}?usage=true"),
		httpGet("quota of others", "/os-quota-sets/00000000000000000000000000000000"),
		httpPut("quota set by the user", "/os-quota-sets/{project}", object{"quota_set": object{"volumes": 1}}),
		httpGet("messages of 3.0", "/messages"),
		httpGet("messages of an unknown volume", "/messages?resource_uuid="+unknownID).at("3.5"),
		httpGet("unknown message", "/messages/"+unknownID).at("3.5"),
		httpGet("messages by an unknown filter", "/messages?color=red").at("3.31"),
	)
}

func (c *comparedCloud) recordCreation() {
	create := func(label, version string, v object) apiCall {
		return httpPost(label, "/volumes", object{"volume": v}).at(version)
	}
	c.recordAll(
		create("create of an unknown type", "", object{"size": 1, "volume_type": "nope"}),
		create("create of no size", "", object{"size": 0}),
		create("create without a size", "", object{"name": "x"}),
		create("create of a word's size", "", object{"size": "x"}),
		create("create of a negative size", "", object{"size": -1}),
		create("create in an unknown zone", "", object{"size": 1, "availability_zone": "nowhere"}),
		create("create over the quota", "", object{"size": 5000}),
		create("create from an unknown snapshot", "", object{"size": 1, "snapshot_id": unknownID}),
		create("create from an unknown volume", "", object{"size": 1, "source_volid": unknownID}),
		create("create from an unknown backup", "3.47", object{"size": 1, "backup_id": unknownID}),
		create("create from a backup before 3.47", "3.46", object{"size": 1, "backup_id": unknownID}),
		httpPost("create of nothing", "/volumes", object{}),
		httpPost("create of no JSON", "/volumes", "{"),
		create("create", "", object{
			"size": 1, "name": "fc-1", "description": "d", "metadata": object{"fc": "yes"},
		}).saveAs("volume-1"),
		httpPost("create with a hint", "/volumes", object{
			"volume":                     object{"size": 1, "name": "fc-2", "volume_type": "rbd", "availability_zone": "nova"},
			"OS-SCH-HNT:scheduler_hints": object{"different_host": []string{unknownID}},
		}).at("3.70").saveAs("volume-2"),
	)
	c.recordStates("created", "/volumes/{volume-1}", "volume", "available")
	c.recordStates("created with a hint", "/volumes/{volume-2}", "volume", "available")
	c.recordAll(
		httpGet("volume", "/volumes/{volume-1}"),
		httpGet("volume of 3.70", "/volumes/{volume-1}").at("3.70"),
		httpGet("volume for the administrator", "/volumes/{volume-1}").at("3.70").asAdmin(),
		httpGet("unknown volume", "/volumes/"+unknownID),
		httpGet("volume that is no ID", "/volumes/abc"),
	)
}

func (c *comparedCloud) recordLists() {
	list := func(label, query, version string) apiCall {
		return httpGet("list "+label, "/volumes"+query).at(version)
	}
	c.recordAll(
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

func (c *comparedCloud) recordMetadata() {
	path := "/volumes/{volume-1}/metadata"
	c.recordAll(
		httpGet("metadata", path),
		httpPost("metadata added", path, object{"metadata": object{"a": "b"}}),
		httpPut("metadata replaced", path, object{"metadata": object{"c": "d"}}),
		httpDelete("metadata deleted", path+"/c"),
		httpDelete("metadata deleted again", path+"/c"),
		httpPost("metadata of an odd key", path, object{"metadata": object{"a*": "b"}}),
		httpPost("metadata of a long value", path, object{"metadata": object{"a": strings.Repeat("x", 256)}}),
		httpPost("metadata without a value", path, object{"metadata": object{"a": nil}}),
		httpPost("create with an odd key", "/volumes", object{"volume": object{"size": 1, "metadata": object{"a*": "b"}}}),
		httpPost("snapshot with an odd key", "/snapshots", object{
			"snapshot": object{"volume_id": "{volume-1}", "metadata": object{"a*": "b"}},
		}),
		httpPost("backup with an odd key", "/backups", object{
			"backup": object{"volume_id": "{volume-1}", "metadata": object{"a*": "b"}},
		}).at("3.70"),
	)
	c.resetStatus("maintenance", "volume-1", "maintenance")
	c.record(httpPost("metadata in maintenance", path, object{"metadata": object{"a": "b"}}))
	c.resetStatus("end of maintenance", "volume-1", "available")
	c.recordAll(
		httpPut("renamed", "/volumes/{volume-1}", object{"volume": object{"name": "fc-one"}}),
	)
}

// volumeAction is a call of an action on the volume with this name.
func volumeAction(label, volume, version, key string, body any) apiCall {
	return httpPost(label, "/volumes/{"+volume+"}/action", object{key: body}).at(version)
}

// resetStatus sets the state of a volume as an administrator.
func (c *comparedCloud) resetStatus(label, volume, status string) {
	c.Helper()
	c.record(volumeAction(label, volume, "", "os-reset_status", object{"status": status}).asAdmin())
}

func (c *comparedCloud) recordExtension() {
	extend := func(label string, size any) apiCall {
		return volumeAction("extend "+label, "volume-1", "", "os-extend", object{"new_size": size})
	}
	c.recordAll(
		extend("to less", 0),
		extend("to the same", 1),
		extend("to a word", "x"),
		extend("over the quota", 5000),
		volumeAction("extend to nothing", "volume-1", "", "os-extend", object{}),
		httpPost("extend an unknown volume", "/volumes/"+unknownID+"/action", object{"os-extend": object{"new_size": 2}}),
		volumeAction("unknown action", "volume-1", "", "os-nothing", object{}),
		volumeAction("reset by the user", "volume-1", "", "os-reset_status", object{"status": "error"}),
		extend("to two", 2),
	)
	c.ids["size"] = "2"
	c.recordStates("extended", "/volumes/{volume-1}", "volume", "available")
	delete(c.ids, "size")
	c.record(extend("beyond the backend", 990))
	c.recordStates("refused by the scheduler", "/volumes/{volume-1}", "volume", "available")
	c.recordAll(
		httpGet("volume after the refusal", "/volumes/{volume-1}"),
		httpGet("message of the refusal", "/messages?resource_uuid={volume-1}").at("3.5"),
		httpGet("messages on pages", "/messages?resource_uuid={volume-1}&limit=1").at("3.70"),
		httpGet("messages after an unknown marker", "/messages?marker="+unknownID).at("3.70"),
		httpGet("backups after an unknown marker", "/backups/detail?marker="+unknownID),
		httpGet("backups by an unknown filter", "/backups/detail?color=red").at("3.70"),
	)
	c.resetStatus("reset to error_extending", "volume-1", "error_extending")
	c.recordAll(
		extend("in error_extending", 3),
		volumeAction("extend in error_extending with 3.42", "volume-1", "3.42", "os-extend", object{"new_size": 3}),
		httpPost("snapshot in error_extending", "/snapshots", object{"snapshot": object{"volume_id": "{volume-1}"}}),
	)
	c.resetStatus("reset to error", "volume-1", "error")
	c.record(httpPost("snapshot in error", "/snapshots", object{"snapshot": object{"volume_id": "{volume-1}"}}))
	c.resetStatus("reset to in-use without an attachment", "volume-1", "in-use")
	c.resetStatus("reset to available", "volume-1", "available")
}

func (c *comparedCloud) recordRetype() {
	retype := func(label, to string) apiCall {
		return volumeAction(label, "volume-4", "", "os-retype", object{"new_type": to, "migration_policy": "never"})
	}
	c.recordAll(retype("retype to nothing known", "nope"), retype("retype to the same", "rbd"),
		retype("retype", "rbd-gold"))
	c.recordStates("retyped", "/volumes/{volume-4}", "volume", "available")
	c.record(httpGet("retyped volume", "/volumes/{volume-4}"))
}

func (c *comparedCloud) recordEncrypted() {
	c.record(httpPost("create encrypted", "/volumes", object{
		"volume": object{"size": 1, "volume_type": "rbd-luks"},
	}).at("3.70").saveAs("volume-7"))
	c.recordStates("created encrypted", "/volumes/{volume-7}", "volume", "available")
	c.recordAll(
		httpGet("encrypted volume", "/volumes/{volume-7}").at("3.70"),
		httpGet("encrypted volume of 3.0", "/volumes/{volume-7}"),
		volumeAction("extend encrypted", "volume-7", "", "os-extend", object{"new_size": 2}),
	)
	c.recordStates("extended encrypted", "/volumes/{volume-7}", "volume", "available")
}

func (c *comparedCloud) recordDeletion() {
	c.resetStatus("reset before the deletion", "volume-1", "error_extending")
	c.record(httpDelete("delete in error_extending", "/volumes/{volume-1}"))
	c.recordStates("deleted", "/volumes/{volume-1}", "volume", "404")
	c.recordAll(
		httpDelete("delete again", "/volumes/{volume-1}"),
		httpGet("deleted volume", "/volumes/{volume-1}").at("3.70"),
		volumeAction("extend a deleted volume", "volume-1", "3.42", "os-extend", object{"new_size": 9}),
		httpPost("create from a deleted volume", "/volumes", object{
			"volume": object{"size": 9, "source_volid": "{volume-1}"},
		}),
	)
}

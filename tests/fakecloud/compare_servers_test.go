package fakecloud_test

// attachments is the path of the attachments of the server of the script.
const attachments = "compute:/servers/{server}/os-volume_attachments"

// attachCall is the call that attaches a volume to the server of the script.
func attachCall(label, version, volume string) apiCall {
	return httpPost(label, attachments, object{"volumeAttachment": object{"volumeId": volume}}).at(version)
}

func (c *comparedCloud) recordAttachments() {
	c.resetStatus("reset before the attach", "volume-2", "error")
	c.recordAll(
		httpGet("server", "compute:/servers/{server}"),
		httpGet("server of 2.93", "compute:/servers/{server}").at("2.93"),
		httpGet("unknown server", "compute:/servers/"+unknownID),
		httpGet("attachments of an unknown server", "compute:/servers/"+unknownID+"/os-volume_attachments"),
		httpPost("attach to an unknown server", "compute:/servers/"+unknownID+"/os-volume_attachments", object{
			"volumeAttachment": object{"volumeId": "{volume-1}"},
		}),
		attachCall("attach an unknown volume", "", unknownID),
		attachCall("attach no ID", "", "abc"),
		attachCall("attach in error", "", "{volume-2}"),
		httpGet("attachments of a bare server", attachments),
		attachCall("attach", "2.79", "{volume-1}"),
	)
	c.recordStates("attached", "/volumes/{volume-1}", "volume", "in-use")
	c.resetStatus("reset after the attach", "volume-2", "available")
	c.recordAll(
		httpGet("volume in use", "/volumes/{volume-1}").at("3.70"),
		httpGet("attachments", attachments),
		httpGet("attachments of 2.89", attachments).at("2.89"),
		httpGet("attachment", attachments+"/{volume-1}"),
		httpGet("attachment of 2.93", attachments+"/{volume-1}").at("2.93"),
		httpGet("records of the attachment", "/attachments?volume_id={volume-1}").at("3.70"),
		httpGet("records in detail", "/attachments/detail?volume_id={volume-1}").at("3.70"),
		httpGet("records before 3.27", "/attachments").at("3.26"),
		httpGet("unknown record", "/attachments/"+unknownID).at("3.70"),
		attachCall("attach again", "2.79", "{volume-1}"),
		httpGet("server with a volume", "compute:/servers/{server}").at("2.93"),
		volumeAction("extend in use by 3.41", "volume-1", "3.41", "os-extend", object{"new_size": 3}),
		volumeAction("extend in use by 3.0", "volume-1", "", "os-extend", object{"new_size": 3}),
		httpPost("snapshot in use without force", "/snapshots", object{"snapshot": object{"volume_id": "{volume-1}"}}),
		httpPost("backup in use without force", "/backups", object{"backup": object{"volume_id": "{volume-1}"}}),
		httpDelete("delete in use", "/volumes/{volume-1}"),
		volumeAction("retype in use to a shareable type", "volume-1", "", "os-retype", object{
			"new_type":         "rbd-multi",
			"migration_policy": "never",
		}),
	)
	c.recordCopiesInUse()
	c.recordLockedServer()
	c.recordAll(
		volumeAction("extend in use", "volume-1", "3.42", "os-extend", object{"new_size": 3}),
	)
	c.ids["size"] = "3"
	c.recordStates("extended in use", "/volumes/{volume-1}", "volume", "in-use")
	delete(c.ids, "size")
	c.recordEvents()
	c.recordAll(
		httpDelete("detach what is not attached", attachments+"/{volume-4}"),
		httpDelete("detach an unknown volume", attachments+"/"+unknownID),
		httpDelete("detach", attachments+"/{volume-1}"),
		httpDelete("detach while detaching", attachments+"/{volume-1}"),
	)
	c.recordStates("detached", "/volumes/{volume-1}", "volume", "available")
	c.pollStates("attachment gone", attachments+"/{volume-1}", "volumeAttachment", "404")
	c.recordAll(
		httpGet("attachment after the detach", attachments+"/{volume-1}"),
		httpDelete("detach again", attachments+"/{volume-1}"),
	)
}

// recordLockedServer sends changes of a server that its owner has locked.
func (c *comparedCloud) recordLockedServer() {
	act := func(label, key string) apiCall {
		return httpPost(label, "compute:/servers/{server}/action", object{key: nil})
	}
	c.recordAll(
		act("unknown action of a server", "fly"),
		act("locked", "lock"),
		httpGet("locked server", "compute:/servers/{server}").at("2.93"),
		attachCall("attach to a locked server", "", "{volume-4}"),
		httpDelete("detach from a locked server", attachments+"/{volume-1}"),
		act("unlocked", "unlock"),
	)
}

func (c *comparedCloud) recordEvents() {
	events := func(label, server, tag string) apiCall {
		e := object{"name": "volume-extended", "server_uuid": server}
		if tag != "" {
			e["tag"] = tag
		}
		return httpPost(label, "compute:/os-server-external-events", object{"events": []any{e}}).at("2.51")
	}
	c.recordAll(
		events("event by the user", "{server}", "{volume-1}"),
		events("event", "{server}", "{volume-1}").asAdmin(),
		events("event for an unknown server", unknownID, "{volume-1}").asAdmin(),
		events("event without a tag", "{server}", "").asAdmin(),
	)
}

func (c *comparedCloud) recordMultiattach() {
	create := httpPost("create shareable", "/volumes", object{
		"volume": object{"size": 1, "volume_type": "rbd-multi"},
	}).saveAs("volume-6")
	c.record(create)
	c.recordStates("created shareable", "/volumes/{volume-6}", "volume", "available")
	c.recordAll(
		attachCall("attach shareable before 2.60", "2.59", "{volume-6}"),
		attachCall("attach shareable", "2.60", "{volume-6}"),
	)
	c.recordStates("attached shareable", "/volumes/{volume-6}", "volume", "in-use")
	c.recordAll(
		attachCall("attach shareable again", "2.60", "{volume-6}"),
		httpDelete("detach shareable", attachments+"/{volume-6}"),
	)
	c.recordStates("detached shareable", "/volumes/{volume-6}", "volume", "available")
}

// recordServerDeletion deletes a server that has a volume.
func (c *comparedCloud) recordServerDeletion() {
	c.recordAll(
		httpGet("servers", "compute:/servers?limit=1"),
		attachCall("attach before the end", "2.79", "{volume-4}"),
	)
	c.recordStates("attached before the end", "/volumes/{volume-4}", "volume", "in-use")
	c.recordAll(
		httpDelete("server deleted", "compute:/servers/{server}"),
		attachCall("attach to a server being deleted", "", "{volume-2}"),
		httpDelete("detach from a server being deleted", attachments+"/{volume-4}"),
		httpGet("server being deleted", "compute:/servers/{server}").at("2.93"),
	)
	c.recordStates("detached by the end", "/volumes/{volume-4}", "volume", "available")
	c.recordStates("server gone", "compute:/servers/{server}", "server", "404")
	c.recordAll(
		httpDelete("server deleted again", "compute:/servers/{server}"),
		httpGet("deleted server", "compute:/servers/{server}"),
		httpGet("attachment of a deleted server", "compute:/servers/{server}/os-volume_attachments/{volume-4}"),
		httpDelete("detach from a deleted server", attachments+"/{volume-4}"),
		attachCall("attach to a deleted server", "", "{volume-2}"),
	)
}

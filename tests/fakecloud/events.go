package fakecloud

import "net/http"

// sendEvents is os-server-external-events: who may send them is a matter of
// policy, and the guest is told after the answer.
func (c *Cloud) sendEvents(x *exchange) *reply {
	if !x.token.has("admin", "service") {
		return forbidden("os_compute_api:os-server-external-events:create")
	}
	events, _ := x.body["events"].([]any)
	if len(events) == 0 {
		return fault(http.StatusBadRequest, "Invalid input for field/attribute events. Value: []. [] is too short")
	}
	status, out := http.StatusOK, []object{}
	for _, e := range events {
		o, _ := e.(object)
		event := objectReader{o}
		code, state := c.acceptEvent(event)
		if code != http.StatusOK {
			status = http.StatusMultiStatus
		}
		view := object{"name": event.text("name"), "server_uuid": event.text("server_uuid"), "code": code, "status": state}
		if tag := event.text("tag"); tag != "" {
			view["tag"] = tag
		}
		out = append(out, view)
	}
	return answer(status, object{"events": out})
}

func (c *Cloud) acceptEvent(event objectReader) (code int, state string) {
	s := c.servers[event.text("server_uuid")]
	switch {
	case s == nil:
		return http.StatusNotFound, "failed"
	case event.text("name") == "volume-extended" && event.text("tag") == "":
		return http.StatusBadRequest, "failed"
	case event.text("name") == "volume-extended":
		c.resizeGuest(s.ID, event.text("tag"))
	}
	return http.StatusOK, "completed"
}

// resizeGuest is what the compute host does with volume-extended: it asks
// Cinder for the size and tells the hypervisor. A guest that does not run
// learns the size when it boots.
func (c *Cloud) resizeGuest(serverID, volumeID string) {
	s := c.scriptFor(GuestResize, nil, "")
	if s.outcome != succeeds || s.eventLost {
		return
	}
	c.later(c.doneTime(GuestResize)+s.slow, func() {
		sv, v := c.servers[serverID], c.volumes[volumeID]
		if sv == nil || v == nil || (sv.Status != "ACTIVE" && sv.Status != "PAUSED") {
			return
		}
		if d := sv.disk(volumeID); d != nil && d.plugged {
			d.guestSize = v.Size
		}
	})
}

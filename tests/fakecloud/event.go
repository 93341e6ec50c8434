package fakecloud

import "net/http"

// sendEvents is os-server-external-events, with which Cinder tells Nova about extended volumes.
// Policy requires the role admin or service.
func (c *Cloud) sendEvents(x *exchange) *reply {
	if !x.token.hasRole("admin", "service") {
		return forbiddenError("os_compute_api:os-server-external-events:create")
	}
	events, _ := x.body["events"].([]any)
	if len(events) == 0 {
		return apiError(http.StatusBadRequest, "Invalid input for field/attribute events. Value: []. [] is too short")
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
	return newReply(status, object{"events": out})
}

// acceptEvent returns the code and the status that Nova reports for one event.
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

// resizeGuest does the work of the compute host after a volume-extended event: the compute host
// asks Cinder for the size and tells the hypervisor. A guest that is not running sees the new size
// when it boots. The caller holds c.mu.
func (c *Cloud) resizeGuest(serverID, volumeID string) {
	plan := c.nextFaultPlan(GuestResize, nil, "")
	if plan.outcome != outcomeSuccess || plan.eventLost {
		return
	}
	c.runAfter(c.drawWorkTime(GuestResize)+plan.extraWorkTime, func() {
		s, v := c.servers[serverID], c.volumes[volumeID]
		if s == nil || v == nil || (s.Status != "ACTIVE" && s.Status != "PAUSED") {
			return
		}
		if d := s.findDisk(volumeID); d != nil && d.inGuest {
			d.guestSize = v.Size
		}
	})
}

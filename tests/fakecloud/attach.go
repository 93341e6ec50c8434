package fakecloud

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// attachVolume checks what Nova's API checks, in its order, and reserves the
// volume; the compute host works after the answer.
func (c *Cloud) attachVolume(x *exchange) *reply {
	s, bad := c.serverOf(x)
	if bad != nil {
		return bad
	}
	in := objectReader{x.part("volumeAttachment")}
	id := in.text("volumeId")
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(id) {
		return faultf(http.StatusBadRequest, "Invalid input for field/attribute volumeId. Value: %s. '%s' is not a 'uuid'", id, id)
	}
	if bad := s.mayChange("attach_volume"); bad != nil {
		return bad
	}
	v, bad := c.volumeOf(x, id)
	if bad != nil {
		return bad
	}
	if bad := c.mayAttach(x, s, v); bad != nil {
		return bad
	}
	a := Attachment{ID: c.newID(), ServerID: s.ID, Status: isReserved}
	d := &disk{id: c.newID(), volumeID: v.ID, attachmentID: a.ID, device: s.freeDevice(), tag: textOrNull(in.text("tag"))}
	d.deleteOnTermination, _ = in.object["delete_on_termination"].(bool)
	s.disks = append(s.disks, d)
	v.Attachments = append(v.Attachments, a)
	v.set(isReserved)
	c.finishAttach(x, s, v, d)
	if x.version.since(101) {
		return answer(http.StatusAccepted, nil)
	}
	view := object{"id": v.ID, "serverId": s.ID, "volumeId": v.ID, "device": d.device}
	if x.version.since(70) {
		view["tag"] = d.tag
	}
	if x.version.since(79) {
		view["delete_on_termination"] = d.deleteOnTermination
	}
	return answer(http.StatusOK, object{"volumeAttachment": view})
}

func (s *server) mayChange(method string) *reply {
	switch {
	case s.Locked:
		return faultf(http.StatusConflict, "Instance %s is locked", s.ID)
	case s.deleting:
		return faultf(http.StatusConflict, "Cannot '%s' instance %s while it is in task_state deleting", method, s.ID)
	case s.Status == "ERROR" || s.Status == "DELETED":
		return faultf(http.StatusConflict, "Cannot '%s' instance %s while it is in vm_state %s", method, s.ID, strings.ToLower(s.Status))
	}
	return nil
}

func (c *Cloud) mayAttach(x *exchange, s *server, v *volume) *reply {
	var holders []string
	for _, other := range c.servers {
		if other.disk(v.ID) != nil {
			holders = append(holders, other.ID)
		}
	}
	slices.Sort(holders)
	switch {
	case len(holders) > 0 && !v.Multiattach:
		return faultf(http.StatusBadRequest, "Invalid volume: volume %s is already attached to instances: %s", v.ID, strings.Join(holders, " "))
	case slices.Contains(holders, s.ID):
		return faultf(http.StatusBadRequest, "Invalid volume: volume %s already attached", v.ID)
	case c.opts.MaxDisks > 0 && len(s.disks) >= c.opts.MaxDisks:
		return faultf(http.StatusForbidden, "The maximum allowed number of disk devices (%d) to attach to a single instance has been exceeded.", c.opts.MaxDisks)
	case v.Multiattach && !x.version.since(60):
		return fault(http.StatusBadRequest, "Multiattach volumes are only supported starting with compute API version 2.60.")
	}
	if strings.Contains(v.Status, "error") {
		return c.relayed("", fmt.Sprintf("Volume attachments can not be created if the volume is in an error state. The Volume %s currently has a status of: %s ", v.ID, v.Status))
	}
	want := []string{available, "downloading"}
	if v.Multiattach {
		want = []string{available, inUse, "downloading"}
	}
	if !slices.Contains(want, v.Status) {
		return c.relayed("", fmt.Sprintf("Volume %s status must be %s to reserve, but the current status is %s.", v.ID, strings.Join(want, " or "), v.Status))
	}
	return nil
}

// relayed is a refusal of Cinder that Nova passes on.
func (c *Cloud) relayed(prefix, message string) *reply {
	return faultf(http.StatusBadRequest, "%sInvalid input received: Invalid volume: %s (HTTP 400) (Request-ID: req-%s)", prefix, message, c.newID())
}

// freeDevice returns the next name; the first disk is the root.
func (s *server) freeDevice() string {
	for n := 1; ; n++ {
		name := "/dev/vd" + letters(n)
		if !slices.ContainsFunc(s.disks, func(d *disk) bool { return d.device == name }) {
			return name
		}
	}
}

func letters(n int) string {
	if n < 26 {
		return string(rune('a' + n))
	}
	return letters(n/26-1) + letters(n%26)
}

// finishAttach is the compute host: half-way the volume is attaching, at the
// end the guest has the disk.
func (c *Cloud) finishAttach(x *exchange, s *server, v *volume, d *disk) {
	half := (c.doneTime(AttachVolume) + x.script.slow) / 2
	begin := func() bool {
		there := v.Status == isReserved && c.attachmentSet(v, d, attaching)
		if there {
			v.set(attaching)
		}
		return there
	}
	end := func() {
		switch {
		case x.script.outcome == fails:
			c.detached(s, d)
		case c.attachmentSet(v, d, attached):
			v.attachedAt[d.attachmentID] = now()
			v.set(inUse)
			d.plugged, d.guestSize = true, v.Size
		}
	}
	switch x.script.outcome {
	case reserved:
		c.work(x, v.ID, end)
	case stuck:
		c.later(half, func() { begin() })
		c.work(x, v.ID, end)
	default:
		c.later(half, func() {
			if begin() {
				c.later(half, end)
			}
		})
	}
}

// attachmentSet gives the attachment behind a disk a state, if it is still
// there.
func (c *Cloud) attachmentSet(v *volume, d *disk, status string) bool {
	for i := range v.Attachments {
		if a := &v.Attachments[i]; a.ID == d.attachmentID && c.volumes[v.ID] == v {
			a.Status, a.Device = status, d.device
			return true
		}
	}
	return false
}

// detached ends an attachment on both sides.
func (c *Cloud) detached(s *server, d *disk) {
	d.plugged = false
	if d.lingers == 0 {
		s.unplug(d.volumeID)
	}
	if v := c.volumes[d.volumeID]; v != nil {
		v.Attachments = slices.DeleteFunc(v.Attachments, func(a Attachment) bool { return a.ID == d.attachmentID })
		v.settle()
	}
}

func (c *Cloud) detachVolume(x *exchange) *reply {
	s, bad := c.serverOf(x)
	if bad != nil {
		return bad
	}
	v, bad := c.volumeOf(x, x.values["volume"])
	if bad != nil {
		return bad
	}
	d := s.disk(v.ID)
	if d == nil {
		return notAttached(s.ID, v.ID)
	}
	if bad := s.mayChange("detach_volume"); bad != nil {
		return bad
	}
	if v.Status != inUse {
		return c.relayed("Invalid volume: ", "Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach.")
	}
	v.set(detaching)
	c.attachmentSet(v, d, detaching)
	c.work(x, v.ID, func() {
		switch {
		case x.script.outcome != fails:
			d.lingers = x.script.lingers
			c.detached(s, d)
		case c.attachmentSet(v, d, attached):
			v.set(inUse)
		}
	})
	return answer(http.StatusAccepted, nil)
}

func notAttached(serverID, volumeID string) *reply {
	return faultf(http.StatusNotFound, "Instance %s is not attached to volume %s", serverID, volumeID)
}

func (x *exchange) attachmentView(s *server, d *disk) object {
	view := object{"volumeId": d.volumeID, "serverId": s.ID, "device": d.device}
	if x.version.since(70) {
		view["tag"] = d.tag
	}
	if x.version.since(79) {
		view["delete_on_termination"] = d.deleteOnTermination
	}
	if x.version.since(89) {
		view["attachment_id"], view["bdm_uuid"] = d.attachmentID, d.id
	} else {
		view["id"] = d.volumeID
	}
	return view
}

func (c *Cloud) listAttachments(x *exchange) *reply {
	s, bad := c.serverOf(x)
	if bad != nil {
		return bad
	}
	list := []object{}
	for _, d := range slices.Clone(s.disks) {
		list = append(list, x.attachmentView(s, d))
		s.seen(d)
	}
	return answer(http.StatusOK, object{"volumeAttachments": list})
}

func (c *Cloud) getAttachment(x *exchange) *reply {
	s, bad := c.serverOf(x)
	if bad != nil {
		return bad
	}
	d := s.disk(x.values["volume"])
	if d == nil {
		return notAttached(s.ID, x.values["volume"])
	}
	s.seen(d)
	return answer(http.StatusOK, object{"volumeAttachment": x.attachmentView(s, d)})
}

// seen counts down the requests that still show a detached disk.
func (s *server) seen(d *disk) {
	if d.lingers > 0 {
		if d.lingers--; d.lingers == 0 {
			s.unplug(d.volumeID)
		}
	}
}

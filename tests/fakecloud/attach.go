package fakecloud

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// attachVolume is POST os-volume_attachments: it checks what Nova's API checks, in the same order,
// and reserves the volume. finishAttach does the work of the compute host after the answer.
func (c *Cloud) attachVolume(x *exchange, s *server) *reply {
	in := objectReader{x.object("volumeAttachment")}
	id := in.text("volumeId")
	if !regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`).MatchString(id) {
		return apiErrorf(http.StatusBadRequest,
			"Invalid input for field/attribute volumeId. Value: %s. '%s' is not a 'uuid'", id, id)
	}
	if refusal := s.checkChangeable("attach_volume"); refusal != nil {
		return refusal
	}
	v, refusal := c.findVolume(x, id)
	if refusal != nil {
		return refusal
	}
	if refusal := c.checkAttachable(x, s, v); refusal != nil {
		return refusal
	}
	a := Attachment{ID: c.newID(), ServerID: s.ID, Status: statusReserved}
	d := &disk{id: c.newID(), volumeID: v.ID, attachmentID: a.ID, device: s.freeDevice(), tag: textOrNull(in.text("tag"))}
	d.deleteOnTermination, _ = in.object["delete_on_termination"].(bool)
	s.disks = append(s.disks, d)
	v.Attachments = append(v.Attachments, a)
	v.setStatus(statusReserved)
	c.finishAttach(x, s, v, d)
	if x.version.isAtLeast(101) {
		return newReply(http.StatusAccepted, nil)
	}
	view := object{"id": v.ID, "serverId": s.ID, "volumeId": v.ID, "device": d.device}
	if x.version.isAtLeast(70) {
		view["tag"] = d.tag
	}
	if x.version.isAtLeast(79) {
		view["delete_on_termination"] = d.deleteOnTermination
	}
	return newReply(http.StatusOK, object{"volumeAttachment": view})
}

// checkChangeable refuses changes that the state of the server does not allow. method is the name
// of the method in the error of Nova.
func (s *server) checkChangeable(method string) *reply {
	switch {
	case s.Locked:
		return apiErrorf(http.StatusConflict, "Instance %s is locked", s.ID)
	case s.isDeleting:
		return apiErrorf(http.StatusConflict, "Cannot '%s' instance %s while it is in task_state deleting", method, s.ID)
	case s.Status == "ERROR" || s.Status == "DELETED":
		return apiErrorf(http.StatusConflict, "Cannot '%s' instance %s while it is in vm_state %s", method, s.ID,
			strings.ToLower(s.Status))
	}
	return nil
}

// checkAttachable refuses an attachment that the state of the volume or its other attachments do
// not allow.
func (c *Cloud) checkAttachable(x *exchange, s *server, v *volume) *reply {
	var holders []string
	for _, other := range c.servers {
		if other.findDisk(v.ID) != nil {
			holders = append(holders, other.ID)
		}
	}
	slices.Sort(holders)
	switch {
	case len(holders) > 0 && !v.Multiattach:
		return apiErrorf(http.StatusBadRequest, "Invalid volume: volume %s is already attached to instances: %s", v.ID,
			strings.Join(holders, " "))
	case slices.Contains(holders, s.ID):
		return apiErrorf(http.StatusBadRequest, "Invalid volume: volume %s already attached", v.ID)
	case c.opts.MaxDisks > 0 && len(s.disks) >= c.opts.MaxDisks:
		return apiErrorf(http.StatusForbidden,
			"The maximum allowed number of disk devices (%d) to attach to a single instance has been exceeded.", c.opts.MaxDisks)
	case v.Multiattach && !x.version.isAtLeast(60):
		return apiError(http.StatusBadRequest,
			"Multiattach volumes are only supported starting with compute API version 2.60.")
	}
	if strings.Contains(v.Status, "error") {
		return c.relayedError("", fmt.Sprintf("Volume attachments can not be created if the volume is in an error state. "+
			"The Volume %s currently has a status of: %s ", v.ID, v.Status))
	}
	want := []string{statusAvailable, "downloading"}
	if v.Multiattach {
		want = []string{statusAvailable, statusInUse, "downloading"}
	}
	if !slices.Contains(want, v.Status) {
		return c.relayedError("", fmt.Sprintf("Volume %s status must be %s to reserve, but the current status is %s.",
			v.ID, strings.Join(want, " or "), v.Status))
	}
	return nil
}

// relayedError returns an error of Cinder in the form in which Nova passes it on.
func (c *Cloud) relayedError(prefix, message string) *reply {
	return apiErrorf(http.StatusBadRequest,
		"%sInvalid input received: Invalid volume: %s (HTTP 400) (Request-ID: req-%s)", prefix, message, c.newID())
}

// freeDevice returns the next unused device name; vda is the root disk.
func (s *server) freeDevice() string {
	for n := 1; ; n++ {
		name := "/dev/vd" + diskLetters(n)
		if !slices.ContainsFunc(s.disks, func(d *disk) bool { return d.device == name }) {
			return name
		}
	}
}

// diskLetters returns the letters of the nth disk: a to z, then aa, ab and so on.
func diskLetters(n int) string {
	if n < 26 {
		return string(rune('a' + n))
	}
	return diskLetters(n/26-1) + diskLetters(n%26)
}

// finishAttach does the work of the compute host: after half of the time the volume is attaching,
// at the end the guest has the disk.
func (c *Cloud) finishAttach(x *exchange, s *server, v *volume, d *disk) {
	half := (c.drawWorkTime(AttachVolume) + x.plan.extraWorkTime) / 2
	begin := func() bool {
		found := v.Status == statusReserved && c.setAttachmentStatus(v, d, statusAttaching)
		if found {
			v.setStatus(statusAttaching)
		}
		return found
	}
	end := func() {
		switch {
		case x.plan.outcome == outcomeFailure:
			c.endAttachment(s, d)
		case c.setAttachmentStatus(v, d, statusAttached):
			v.attachedAt[d.attachmentID] = now()
			v.setStatus(statusInUse)
			d.inGuest, d.guestSize = true, v.Size
		}
	}
	switch x.plan.outcome {
	case outcomeReserved:
		c.runWork(x, v.ID, end)
	case outcomeStuck:
		c.runAfter(half, func() { begin() })
		c.runWork(x, v.ID, end)
	default:
		c.runAfter(half, func() {
			if begin() {
				c.runAfter(half, end)
			}
		})
	}
}

// setAttachmentStatus sets the state of the attachment of a disk. It reports whether the attachment
// still exists.
func (c *Cloud) setAttachmentStatus(v *volume, d *disk, status string) bool {
	for i := range v.Attachments {
		if a := &v.Attachments[i]; a.ID == d.attachmentID && c.volumes[v.ID] == v {
			a.Status, a.Device = status, d.device
			return true
		}
	}
	return false
}

// endAttachment ends an attachment in Nova and Cinder.
func (c *Cloud) endAttachment(s *server, d *disk) {
	d.inGuest = false
	if d.staleReads == 0 {
		s.removeDisk(d.volumeID)
	}
	if v := c.volumes[d.volumeID]; v != nil {
		v.Attachments = slices.DeleteFunc(v.Attachments, func(a Attachment) bool { return a.ID == d.attachmentID })
		v.settleStatus()
	}
}

// detachVolume is DELETE os-volume_attachments/{volume}: the compute host works after the answer.
func (c *Cloud) detachVolume(x *exchange, s *server) *reply {
	v, refusal := c.findVolume(x, x.values["volume"])
	if refusal != nil {
		return refusal
	}
	d := s.findDisk(v.ID)
	if d == nil {
		return notAttachedError(s.ID, v.ID)
	}
	if refusal := s.checkChangeable("detach_volume"); refusal != nil {
		return refusal
	}
	if v.Status != statusInUse {
		return c.relayedError("Invalid volume: ",
			"Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach.")
	}
	v.setStatus(statusDetaching)
	c.setAttachmentStatus(v, d, statusDetaching)
	c.runWork(x, v.ID, func() {
		switch {
		case x.plan.outcome != outcomeFailure:
			d.staleReads = x.plan.staleReads
			c.endAttachment(s, d)
		case c.setAttachmentStatus(v, d, statusAttached):
			v.setStatus(statusInUse)
		}
	})
	return newReply(http.StatusAccepted, nil)
}

func notAttachedError(serverID, volumeID string) *reply {
	return apiErrorf(http.StatusNotFound, "Instance %s is not attached to volume %s", serverID, volumeID)
}

func (x *exchange) attachmentView(s *server, d *disk) object {
	view := object{"volumeId": d.volumeID, "serverId": s.ID, "device": d.device}
	if x.version.isAtLeast(70) {
		view["tag"] = d.tag
	}
	if x.version.isAtLeast(79) {
		view["delete_on_termination"] = d.deleteOnTermination
	}
	if x.version.isAtLeast(89) {
		view["attachment_id"], view["bdm_uuid"] = d.attachmentID, d.id
	} else {
		view["id"] = d.volumeID
	}
	return view
}

func (c *Cloud) listAttachments(x *exchange, s *server) *reply {
	list := []object{}
	for _, d := range slices.Clone(s.disks) {
		list = append(list, x.attachmentView(s, d))
		s.countStaleRead(d)
	}
	return newReply(http.StatusOK, object{"volumeAttachments": list})
}

func (c *Cloud) getAttachment(x *exchange, s *server) *reply {
	d := s.findDisk(x.values["volume"])
	if d == nil {
		return notAttachedError(s.ID, x.values["volume"])
	}
	s.countStaleRead(d)
	return newReply(http.StatusOK, object{"volumeAttachment": x.attachmentView(s, d)})
}

// countStaleRead counts a request that shows a detached disk, and removes the disk after the last
// one.
func (s *server) countStaleRead(d *disk) {
	if d.staleReads > 0 {
		if d.staleReads--; d.staleReads == 0 {
			s.removeDisk(d.volumeID)
		}
	}
}

package fakecloud

import (
	"net/http"
	"slices"
)

// extendVolume is os-extend: the size is looked at first, then the bounds of
// the type, then the state, the limit per volume and the quota; the scheduler
// and the driver work after the answer.
func (c *Cloud) extendVolume(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	in := objectReader{x.part("os-extend")}
	size, given, _ := in.number("new_size")
	if !given {
		return fault(http.StatusBadRequest, "Invalid input for field/attribute os-extend. Value: {}. 'new_size' is a required property")
	}
	if bad := in.positive("new_size"); bad != nil {
		return bad
	}
	if size <= v.Size {
		return faultf(http.StatusBadRequest, "Invalid input received: New size for extend must be greater than current size. (current: %d, extended: %d).", v.Size, size)
	}
	if t, ok := c.typeNamed(v.typeID); ok {
		if bad := allowedByType(t, size); bad != nil {
			return bad
		}
	}
	expected := available
	if v.Status == inUse && x.version.since(42) {
		expected = inUse
	}
	if v.Status != expected {
		return faultf(http.StatusBadRequest, "Invalid volume: Volume %s status must be '{'status': '%s'}' to extend, currently %s.", v.ID, expected, v.Status)
	}
	if bad := c.allowSize(size); bad != nil {
		return bad
	}
	if more := size - v.Size; exceeds(c.used().gigabytes, more, c.quota.Gigabytes) {
		return c.allow(0, 0, more)
	}
	v.previous, v.target = v.Status, size
	v.set(extending)
	c.finishExtend(x, v, size)
	return answer(http.StatusAccepted, nil)
}

// finishExtend is the scheduler, the driver and the notification of Nova.
func (c *Cloud) finishExtend(x *exchange, v *volume, size int) {
	s := x.script
	c.work(x, v.ID, func() {
		if c.volumes[v.ID] != v || v.Status != extending {
			return
		}
		v.target = 0
		switch {
		case s.outcome == refused || c.full(size-v.Size):
			v.set(v.previous)
			c.tell(x, v.ID, actionExtend, detailNoBackend)
			return
		case s.outcome == fails:
			v.set(errorExtending)
			c.tell(x, v.ID, actionExtend, detailExtendFailed)
			return
		case s.outcome == endsShort:
			size = s.size
		}
		v.Size = size
		v.settle()
		if len(v.Attachments) == 0 {
			return
		}
		if s.eventLost || c.opts.ForbidEvents {
			c.tell(x, v.ID, actionExtend, detailNotifyFailed)
			return
		}
		for _, a := range v.Attachments {
			c.resizeGuest(a.ServerID, v.ID)
		}
	})
}

// retypeVolume is os-retype. Everything but the checks is done after the
// answer; what the scheduler refuses leaves the old type.
func (c *Cloud) retypeVolume(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	in := objectReader{x.part("os-retype")}
	t, ok := c.typeNamed(in.text("new_type"))
	if !ok {
		return faultf(http.StatusNotFound, "Volume type with name %s could not be found.", in.text("new_type"))
	}
	if bad := allowedByType(t, v.Size); bad != nil {
		return bad
	}
	if t.Multiattach() != v.Multiattach && v.Status != available {
		return faultf(http.StatusBadRequest, "Invalid input received: Invalid volume_type passed, retypes affecting multiattach are only allowed on available volumes, the specified volume however currently has a status of: %s.", v.Status)
	}
	if t.ID == v.typeID || v.Status != available && v.Status != inUse {
		return fault(http.StatusBadRequest, "Invalid volume: Retype needs volume to be in available or in-use state, not be part of an active migration or a consistency group, requested type has to be different that the one from the volume, and for in-use volumes front-end qos specs cannot change.")
	}
	v.previous = v.Status
	v.set(retyping)
	failed := x.script.outcome != succeeds && x.script.outcome != stuck
	c.work(x, v.ID, func() {
		if c.volumes[v.ID] != v || v.Status != retyping {
			return
		}
		migrates := t.ExtraSpecs["volume_backend_name"] != c.backendOf(v.typeID)
		if !failed && (!migrates || in.text("migration_policy") == "on-demand") {
			v.Type, v.typeID, v.Multiattach, v.Encrypted = t.Name, t.ID, t.Multiattach(), t.Encrypted
		}
		v.set(v.previous)
	})
	return answer(http.StatusAccepted, nil)
}

func (c *Cloud) backendOf(typeID string) string {
	t, _ := c.typeNamed(typeID)
	return t.ExtraSpecs["volume_backend_name"]
}

// resetStatus is os-reset_status, for administrators.
func (c *Cloud) resetStatus(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	if !x.token.has("admin") {
		return forbidden("volume_extension:volume_admin_actions:reset_status")
	}
	in := objectReader{x.part("os-reset_status")}
	status := in.text("status")
	if slices.Contains([]string{deleting, errorDeleting, detaching}, status) {
		return faultf(http.StatusBadRequest, "Cannot reset-state to %s", status)
	}
	if status == inUse && len(v.Attachments) == 0 {
		return fault(http.StatusBadRequest, "Cannot reset-state to in-use because volume does not have any attachments.")
	}
	if status != "" {
		v.target = 0
		v.set(status)
	}
	if in.text("attach_status") == "detached" {
		v.Attachments = nil
	}
	return answer(http.StatusAccepted, nil)
}

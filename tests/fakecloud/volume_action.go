package fakecloud

import (
	"net/http"
	"slices"
)

// extendVolume is os-extend. It checks, in this order, the size, the limits of the type, the state,
// the limit for one volume and the quota. The scheduler and the driver work after the answer.
func (c *Cloud) extendVolume(x *exchange, v *volume) *reply {
	in := objectReader{x.object("os-extend")}
	size, given, _ := in.number("new_size")
	if !given {
		return apiError(http.StatusBadRequest,
			"Invalid input for field/attribute os-extend. Value: {}. 'new_size' is a required property")
	}
	if refusal := in.checkPositive("new_size"); refusal != nil {
		return refusal
	}
	if size <= v.Size {
		return apiErrorf(http.StatusBadRequest,
			"Invalid input received: New size for extend must be greater than current size. (current: %d, extended: %d).",
			v.Size, size)
	}
	if t, ok := c.findType(v.typeID); ok {
		if refusal := checkTypeLimits(t, size); refusal != nil {
			return refusal
		}
	}
	expected := statusAvailable
	if v.Status == statusInUse && x.version.isAtLeast(42) {
		expected = statusInUse
	}
	if v.Status != expected {
		return apiErrorf(http.StatusBadRequest,
			"Invalid volume: Volume %s status must be '{'status': '%s'}' to extend, currently %s.", v.ID, expected, v.Status)
	}
	if refusal := c.checkVolumeSize(size); refusal != nil {
		return refusal
	}
	if more := size - v.Size; exceeds(c.computeUsage().gigabytes, more, c.quota.Gigabytes) {
		return c.checkQuota(0, 0, more)
	}
	v.previousStatus, v.targetSize = v.Status, size
	v.setStatus(statusExtending)
	c.finishExtend(x, v, size)
	return newReply(http.StatusAccepted, nil)
}

// finishExtend does the work of the scheduler and the driver, and notifies Nova.
func (c *Cloud) finishExtend(x *exchange, v *volume, size int) {
	s := x.plan
	c.runWork(x, v.ID, func() {
		if c.volumes[v.ID] != v || v.Status != statusExtending {
			return
		}
		v.targetSize = 0
		switch {
		case s.outcome == outcomeRefused || c.isFull(size-v.Size):
			v.setStatus(v.previousStatus)
			c.addVolumeMessage(x, v.ID, actionExtendVolume, detailNoBackend)
			return
		case s.outcome == outcomeFailure:
			v.setStatus(statusErrorExtending)
			c.addVolumeMessage(x, v.ID, actionExtendVolume, detailExtendFailed)
			return
		case s.outcome == outcomeOtherSize:
			size = s.size
		}
		v.Size = size
		v.settleStatus()
		if len(v.Attachments) == 0 {
			return
		}
		if s.eventLost || c.opts.ForbidEvents {
			c.addVolumeMessage(x, v.ID, actionExtendVolume, detailNotifyFailed)
			return
		}
		for _, a := range v.Attachments {
			c.resizeGuest(a.ServerID, v.ID)
		}
	})
}

// retypeVolume is os-retype. All work follows the answer. A refused or failed retype leaves the old
// type.
func (c *Cloud) retypeVolume(x *exchange, v *volume) *reply {
	in := objectReader{x.object("os-retype")}
	t, ok := c.findType(in.text("new_type"))
	if !ok {
		return apiErrorf(http.StatusNotFound, "Volume type with name %s could not be found.", in.text("new_type"))
	}
	if refusal := checkTypeLimits(t, v.Size); refusal != nil {
		return refusal
	}
	if t.Multiattach() != v.Multiattach && v.Status != statusAvailable {
		return apiErrorf(http.StatusBadRequest,
			"Invalid input received: Invalid volume_type passed, retypes affecting multiattach are only allowed on available "+
				"volumes, the specified volume however currently has a status of: %s.", v.Status)
	}
	if t.ID == v.typeID || v.Status != statusAvailable && v.Status != statusInUse {
		return apiError(http.StatusBadRequest,
			"Invalid volume: Retype needs volume to be in available or in-use state, not be part of an active migration or a "+
				"consistency group, requested type has to be different that the one from the volume, and for in-use volumes "+
				"front-end qos specs cannot change.")
	}
	v.previousStatus = v.Status
	v.setStatus(statusRetyping)
	failed := x.plan.outcome != outcomeSuccess && x.plan.outcome != outcomeStuck
	c.runWork(x, v.ID, func() {
		if c.volumes[v.ID] != v || v.Status != statusRetyping {
			return
		}
		migrates := t.ExtraSpecs["volume_backend_name"] != c.backendOf(v.typeID)
		if !failed && (!migrates || in.text("migration_policy") == "on-demand") {
			v.Type, v.typeID, v.Multiattach, v.Encrypted = t.Name, t.ID, t.Multiattach(), t.Encrypted
		}
		v.setStatus(v.previousStatus)
	})
	return newReply(http.StatusAccepted, nil)
}

// backendOf returns the name of the backend of a volume type.
func (c *Cloud) backendOf(typeID string) string {
	t, _ := c.findType(typeID)
	return t.ExtraSpecs["volume_backend_name"]
}

// resetStatus is os-reset_status, for administrators.
func (c *Cloud) resetStatus(x *exchange, v *volume) *reply {
	if !x.token.hasRole("admin") {
		return forbiddenError("volume_extension:volume_admin_actions:reset_status")
	}
	in := objectReader{x.object("os-reset_status")}
	status := in.text("status")
	if slices.Contains([]string{statusDeleting, statusErrorDeleting, statusDetaching}, status) {
		return apiErrorf(http.StatusBadRequest, "Cannot reset-state to %s", status)
	}
	if status == statusInUse && len(v.Attachments) == 0 {
		return apiError(http.StatusBadRequest, "Cannot reset-state to in-use because volume does not have any attachments.")
	}
	if status != "" {
		v.targetSize = 0
		v.setStatus(status)
	}
	if in.text("attach_status") == "detached" {
		v.Attachments = nil
	}
	return newReply(http.StatusAccepted, nil)
}

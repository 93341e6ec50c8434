package fakecloud

import (
	"net/http"
	"slices"
)

// attachmentRecordRoutes returns the routes of Cinder's attachments API (since 3.27). Its records
// include reserved attachments, which the volumes API does not show.
func attachmentRecordRoutes() []route {
	all := []route{
		cinderRoute(http.MethodGet, "/attachments", ListAttachmentRecords, (*Cloud).listAttachmentRecords),
		cinderRoute(http.MethodGet, "/attachments/detail", ListAttachmentRecords, (*Cloud).listAttachmentRecords),
		cinderRoute(http.MethodGet, "/attachments/{id}", GetAttachmentRecord, (*Cloud).getAttachmentRecord),
		cinderRoute(http.MethodDelete, "/attachments/{id}", DeleteAttachmentRecord, (*Cloud).deleteAttachmentRecord),
	}
	for i := range all {
		all[i].minMinor = 27
	}
	return all
}

// attachmentRecordView returns a record; only detailed answers have the times and the connection.
func attachmentRecordView(v *volume, a Attachment, full bool) object {
	view := object{"id": a.ID, "status": a.Status, "instance": a.ServerID, "volume_id": v.ID}
	if full {
		view["attached_at"], view["detached_at"], view["attach_mode"], view["connection_info"] = "", "", "rw", object{}
		if t, ok := v.attachedAt[a.ID]; ok {
			view["attached_at"] = t.Format(timeLayout)
		}
	}
	return view
}

func (c *Cloud) listAttachmentRecords(x *exchange) *reply {
	p, refusal := parsePage(x, c.opts.ListLimit)
	if refusal != nil {
		return refusal
	}
	if x.version.isAtLeast(31) && !x.token.hasRole("admin") {
		if refusal := p.checkFilters("volume_id", "status", "instance_id", "attach_status"); refusal != nil {
			return refusal
		}
	}
	list := []object{}
	for _, v := range c.volumes {
		for _, a := range v.Attachments {
			fields := map[string]string{
				"volume_id": v.ID, "instance_id": a.ServerID, "attach_status": a.Status, "status": a.Status,
			}
			if v.projectID == x.token.projectID() && p.matches(fields) {
				list = append(list, attachmentRecordView(v, a, x.route.path == "/v3/attachments/detail"))
			}
		}
	}
	return newReply(http.StatusOK, object{"attachments": list})
}

func (c *Cloud) findAttachmentRecord(x *exchange) (*volume, Attachment, *reply) {
	id := x.values["id"]
	for _, v := range c.volumes {
		for _, a := range v.Attachments {
			if a.ID == id && v.projectID == x.token.projectID() {
				return v, a, nil
			}
		}
	}
	return nil, Attachment{}, apiErrorf(http.StatusNotFound,
		"Volume attachment could not be found with filter: attachment_id = %s.", id)
}

func (c *Cloud) getAttachmentRecord(x *exchange) *reply {
	v, a, refusal := c.findAttachmentRecord(x)
	if refusal != nil {
		return refusal
	}
	return newReply(http.StatusOK, object{"attachment": attachmentRecordView(v, a, true)})
}

// deleteAttachmentRecord refuses to delete the record of a disk that Nova has, so that no guest
// loses a disk without Nova.
func (c *Cloud) deleteAttachmentRecord(x *exchange) *reply {
	v, a, refusal := c.findAttachmentRecord(x)
	if refusal != nil {
		return refusal
	}
	if s := c.servers[a.ServerID]; s != nil && a.Status != statusReserved {
		if d := s.findDisk(v.ID); d != nil && d.attachmentID == a.ID {
			return apiErrorf(http.StatusConflict,
				"ConflictNovaUsingAttachment: Detach volume from instance %s using the Compute API", a.ServerID)
		}
	}
	v.Attachments = slices.DeleteFunc(v.Attachments, func(o Attachment) bool { return o.ID == a.ID })
	v.settleStatus()
	rest := []object{}
	for _, o := range v.Attachments {
		rest = append(rest, attachmentRecordView(v, o, false))
	}
	return newReply(http.StatusOK, object{"attachments": rest})
}

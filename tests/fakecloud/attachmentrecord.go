package fakecloud

import (
	"net/http"
	"slices"
)

// attachmentRoutes are Cinder's own records of attachments, which also show
// those that are only reserved.
func attachmentRoutes() []route {
	all := []route{
		cinderRoute(http.MethodGet, "/attachments", ListRecords, (*Cloud).listRecords),
		cinderRoute(http.MethodGet, "/attachments/detail", ListRecords, (*Cloud).listRecords),
		cinderRoute(http.MethodGet, "/attachments/{id}", GetRecord, (*Cloud).getRecord),
		cinderRoute(http.MethodDelete, "/attachments/{id}", DeleteRecord, (*Cloud).deleteRecord),
	}
	for i := range all {
		all[i].since = 27
	}
	return all
}

func recordView(v *volume, a Attachment, full bool) object {
	view := object{"id": a.ID, "status": a.Status, "instance": a.ServerID, "volume_id": v.ID}
	if full {
		view["attached_at"], view["detached_at"], view["attach_mode"], view["connection_info"] = "", "", "rw", object{}
		if t, ok := v.attachedAt[a.ID]; ok {
			view["attached_at"] = t.Format(wireTime)
		}
	}
	return view
}

func (c *Cloud) listRecords(x *exchange) *reply {
	p, bad := newPage(x, c.opts.ListLimit)
	if bad != nil {
		return bad
	}
	if x.version.since(31) && !x.token.has("admin") {
		if bad := p.reject("volume_id", "status", "instance_id", "attach_status"); bad != nil {
			return bad
		}
	}
	list := []object{}
	for _, v := range c.volumes {
		for _, a := range v.Attachments {
			fields := map[string]string{"volume_id": v.ID, "instance_id": a.ServerID, "attach_status": a.Status, "status": a.Status}
			if v.projectID == x.token.projectID() && p.keeps(func(k string) (string, bool) { s, ok := fields[k]; return s, ok }) {
				list = append(list, recordView(v, a, x.route.path == "/v3/attachments/detail"))
			}
		}
	}
	return answer(http.StatusOK, object{"attachments": list})
}

func (c *Cloud) recordOf(x *exchange) (*volume, Attachment, *reply) {
	id := x.values["id"]
	for _, v := range c.volumes {
		for _, a := range v.Attachments {
			if a.ID == id && v.projectID == x.token.projectID() {
				return v, a, nil
			}
		}
	}
	return nil, Attachment{}, faultf(http.StatusNotFound, "Volume attachment could not be found with filter: attachment_id = %s.", id)
}

func (c *Cloud) getRecord(x *exchange) *reply {
	v, a, bad := c.recordOf(x)
	if bad != nil {
		return bad
	}
	return answer(http.StatusOK, object{"attachment": recordView(v, a, true)})
}

// deleteRecord refuses while Nova has the disk, so that no guest loses it
// behind Nova's back.
func (c *Cloud) deleteRecord(x *exchange) *reply {
	v, a, bad := c.recordOf(x)
	if bad != nil {
		return bad
	}
	if s := c.servers[a.ServerID]; s != nil && a.Status != isReserved {
		if d := s.disk(v.ID); d != nil && d.attachmentID == a.ID {
			return faultf(http.StatusConflict, "ConflictNovaUsingAttachment: Detach volume from instance %s using the Compute API", a.ServerID)
		}
	}
	v.Attachments = slices.DeleteFunc(v.Attachments, func(o Attachment) bool { return o.ID == a.ID })
	v.settle()
	rest := []object{}
	for _, o := range v.Attachments {
		rest = append(rest, recordView(v, o, false))
	}
	return answer(http.StatusOK, object{"attachments": rest})
}

package fakecloud

import (
	"net/http"
	"slices"
)

// findType returns the volume type with this name or ID.
func (c *Cloud) findType(nameOrID string) (VolumeType, bool) {
	i := slices.IndexFunc(c.types, func(t VolumeType) bool { return t.ID == nameOrID || t.Name == nameOrID })
	if i < 0 {
		return VolumeType{}, false
	}
	return c.types[i], true
}

// typeView returns a volume type. Users see only the extra specs that Cinder calls user visible.
func typeView(t VolumeType, admin bool) object {
	userVisible := []string{"RESKEY:availability_zones", "multiattach", "replication_enabled"}
	specs := map[string]string{}
	for k, v := range t.ExtraSpecs {
		if admin || slices.Contains(userVisible, k) {
			specs[k] = v
		}
	}
	view := object{
		"id": t.ID, "name": t.Name, "is_public": true, "description": textOrNull(t.Description),
		"os-volume-type-access:is_public": true, "extra_specs": specs,
	}
	if admin {
		view["qos_specs_id"] = nil
	}
	return view
}

func (c *Cloud) listTypes(x *exchange) *reply {
	p, refusal := parsePage(x, c.opts.ListLimit)
	if refusal != nil {
		return refusal
	}
	newest := slices.Clone(c.types)
	slices.Reverse(newest)
	if !slices.ContainsFunc(newest, func(t VolumeType) bool { return t.ID == p.marker }) {
		p.marker = "" // the types API alone ignores an unknown marker
	}
	shown, nextMarker, refusal := cutPage(p, newest,
		func(t VolumeType) string { return t.ID }, "Volume type %s could not be found.")
	if refusal != nil {
		return refusal
	}
	list := []object{}
	for _, t := range shown {
		list = append(list, typeView(t, x.token.hasRole("admin")))
	}
	return newReply(http.StatusOK, c.newListBody(x, "volume_types", "volume_type_links", list, nextMarker))
}

func (c *Cloud) getType(x *exchange) *reply {
	id := x.values["id"]
	if id == "default" {
		id = c.types[0].ID
	}
	i := slices.IndexFunc(c.types, func(t VolumeType) bool { return t.ID == id })
	if i < 0 {
		return apiErrorf(http.StatusNotFound, "Volume type %s could not be found.", id)
	}
	view := typeView(c.types[i], x.token.hasRole("admin"))
	if x.values["id"] == "default" {
		delete(view, "os-volume-type-access:is_public")
	}
	return newReply(http.StatusOK, object{"volume_type": view})
}

package fakecloud

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// wireTime is how Cinder writes times; its database keeps whole seconds.
const wireTime = "2006-01-02T15:04:05.000000"

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

func timeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Format(wireTime)
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func cinderRoutes() []route {
	versions := func(c *Cloud) any { return object{"versions": []any{c.cinderVersion()}} }
	return slices.Concat([]route{
		discovery(volumePath, "/", false, http.StatusMultipleChoices, versions),
		discovery(volumePath, "/v3", true, http.StatusOK, versions),
		cinderRoute(http.MethodGet, "/types", ListTypes, (*Cloud).listTypes),
		cinderRoute(http.MethodGet, "/types/{id}", GetType, (*Cloud).getType),
		cinderRoute(http.MethodGet, "/os-availability-zone", ListZones, (*Cloud).listZones),
		cinderRoute(http.MethodGet, "/limits", GetLimits, (*Cloud).getLimits),
		cinderRoute(http.MethodGet, "/os-quota-sets/{of}", GetQuota, (*Cloud).getQuota),
		cinderRoute(http.MethodPut, "/os-quota-sets/{of}", SetQuota, (*Cloud).putQuota),
	}, volumeRoutes(), messageRoutes(), snapshotRoutes(), backupRoutes(), attachmentRoutes())
}

func cinderRoute(method, path string, call Call, h handler) route {
	return route{service: volumePath, method: method, path: "/v3" + path, call: call, auth: true, handle: h}
}

func (c *Cloud) cinderVersion() object {
	docs := link("describedby", "https://docs.openstack.org/")
	docs["type"] = "text/html"
	return object{
		"id": "v3.0", "status": "CURRENT", "updated": "2022-03-30T00:00:00Z",
		"version": c.cinder.highest.String(), "min_version": c.cinder.lowest.String(),
		"links":       []any{docs, link("self", c.url+volumePath+"/v3/")},
		"media-types": []any{object{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"}},
	}
}

// forbidden is how a policy refuses.
func forbidden(policy string) *reply {
	return faultf(http.StatusForbidden, "Policy doesn't allow %s to be performed.", policy)
}

func (c *Cloud) typeNamed(nameOrID string) (VolumeType, bool) {
	i := slices.IndexFunc(c.types, func(t VolumeType) bool { return t.ID == nameOrID || t.Name == nameOrID })
	if i < 0 {
		return VolumeType{}, false
	}
	return c.types[i], true
}

// typeView shows users only the extra specs that Cinder calls user visible.
func typeView(t VolumeType, admin bool) object {
	specs := map[string]string{}
	for k, v := range t.ExtraSpecs {
		if admin || slices.Contains([]string{"RESKEY:availability_zones", "multiattach", "replication_enabled"}, k) {
			specs[k] = v
		}
	}
	view := object{
		"id": t.ID, "name": t.Name, "is_public": true, "description": textOrNull(t.About),
		"os-volume-type-access:is_public": true, "extra_specs": specs,
	}
	if admin {
		view["qos_specs_id"] = nil
	}
	return view
}

func (c *Cloud) listTypes(x *exchange) *reply {
	p, bad := newPage(x, c.opts.ListLimit)
	if bad != nil {
		return bad
	}
	newest := slices.Clone(c.types)
	slices.Reverse(newest)
	if !slices.ContainsFunc(newest, func(t VolumeType) bool { return t.ID == p.marker }) {
		p.marker = "" // of types alone, Cinder ignores a marker that it does not know
	}
	cutOut, more, bad := paged(p, newest, func(t VolumeType) string { return t.ID }, "Volume type %s could not be found.")
	if bad != nil {
		return bad
	}
	list := []object{}
	for _, t := range cutOut {
		list = append(list, typeView(t, x.token.has("admin")))
	}
	out := object{"volume_types": list}
	if more != "" {
		out["volume_type_links"] = []any{link("next", c.next(x, more))}
	}
	return answer(http.StatusOK, out)
}

func (c *Cloud) getType(x *exchange) *reply {
	id := x.values["id"]
	if id == "default" {
		id = c.types[0].ID
	}
	i := slices.IndexFunc(c.types, func(t VolumeType) bool { return t.ID == id })
	if i < 0 {
		return faultf(http.StatusNotFound, "Volume type %s could not be found.", id)
	}
	view := typeView(c.types[i], x.token.has("admin"))
	if x.values["id"] == "default" {
		delete(view, "os-volume-type-access:is_public")
	}
	return answer(http.StatusOK, object{"volume_type": view})
}

func (c *Cloud) listZones(*exchange) *reply {
	list := []object{}
	for _, z := range c.opts.Zones {
		list = append(list, object{"zoneName": z, "zoneState": object{"available": true}})
	}
	return answer(http.StatusOK, object{"availabilityZoneInfo": list})
}

// trueText tells the spellings of a true value in a query.
func trueText(s string) bool {
	return slices.Contains([]string{"1", "t", "true", "on", "y", "yes"}, strings.ToLower(s))
}

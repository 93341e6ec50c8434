package fakecloud

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// timeLayout is the format of times in Cinder's answers.
const timeLayout = "2006-01-02T15:04:05.000000"

// now returns the present time in whole seconds, the resolution of Cinder's database.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

func timeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Format(timeLayout)
}

func textOrNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// cinderRoutes returns the routes of Cinder: volume types, zones and quotas here, the other
// resources in their own files.
func cinderRoutes() []route {
	versions := func(c *Cloud) any { return object{"versions": []any{c.cinderVersion()}} }
	return slices.Concat([]route{
		discoveryRoute(volumePath, "/", false, http.StatusMultipleChoices, versions),
		discoveryRoute(volumePath, "/v3", true, http.StatusOK, versions),
		cinderRoute(http.MethodGet, "/types", ListTypes, (*Cloud).listTypes),
		cinderRoute(http.MethodGet, "/types/{id}", GetType, (*Cloud).getType),
		cinderRoute(http.MethodGet, "/os-availability-zone", ListZones, (*Cloud).listZones),
		cinderRoute(http.MethodGet, "/limits", GetLimits, (*Cloud).getLimits),
		cinderRoute(http.MethodGet, "/os-quota-sets/{of}", GetQuota, (*Cloud).getQuota),
		cinderRoute(http.MethodPut, "/os-quota-sets/{of}", SetQuota, (*Cloud).setQuota),
	}, volumeRoutes(), messageRoutes(), snapshotRoutes(), backupRoutes(), attachmentRecordRoutes())
}

func cinderRoute(method, path string, call Call, h handler) route {
	return route{service: volumePath, method: method, path: "/v3" + path, call: call, needsToken: true, handle: h}
}

func (c *Cloud) cinderVersion() object {
	docs := link("describedby", "https://docs.openstack.org/")
	docs["type"] = "text/html"
	return object{
		"id": "v3.0", "status": "CURRENT", "updated": "2022-08-31T00:00:00Z",
		"version": c.cinderVersions.highest.String(), "min_version": c.cinderVersions.lowest.String(),
		"links": []any{docs, link("self", c.url+volumePath+"/v3/")},
		"media-types": []any{
			object{"base": "application/json", "type": "application/vnd.openstack.volume+json;version=3"},
		},
	}
}

// forbiddenError returns the error for a caller whose roles the policy does not accept.
func forbiddenError(policy string) *reply {
	return apiErrorf(http.StatusForbidden, "Policy doesn't allow %s to be performed.", policy)
}

func (c *Cloud) listZones(*exchange) *reply {
	list := []object{}
	for _, z := range c.opts.Zones {
		list = append(list, object{"zoneName": z, "zoneState": object{"available": true}})
	}
	return newReply(http.StatusOK, object{"availabilityZoneInfo": list})
}

// isTrue reports whether Cinder reads the value of a query as true.
func isTrue(s string) bool {
	return slices.Contains([]string{"1", "t", "true", "on", "y", "yes"}, strings.ToLower(s))
}

// resourceLinks returns the links of an object of Cinder in its view.
func (c *Cloud) resourceLinks(x *exchange, collection, id string) []any {
	path := "/" + collection + "/" + id
	if p := x.values["project"]; p != "" {
		path = "/" + p + path
	}
	return []any{link("self", c.url+volumePath+"/v3"+path), link("bookmark", c.url+volumePath+path)}
}

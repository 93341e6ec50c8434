package fakecloud

import "net/http"

// novaRoutes returns the routes of Nova.
func novaRoutes() []route {
	r := func(method, path string, call Call, h handler) route {
		return route{service: computePath, method: method, path: "/v2.1" + path, call: call, needsToken: true, handle: h}
	}
	action := func(key string, change func(*server)) route {
		a := r(http.MethodPost, "/servers/{id}/action", ChangeServer, onServer(func(_ *Cloud, _ *exchange, s *server) *reply {
			change(s)
			return newReply(http.StatusAccepted, nil)
		}))
		a.action = key
		return a
	}
	versions := discoveryRoute(computePath, "/", false, http.StatusOK, func(c *Cloud) any {
		return object{"versions": []any{c.novaLegacyVersion(), c.novaVersion(false)}}
	})
	versions.omitsHeaders = true
	return []route{
		versions,
		discoveryRoute(computePath, "/v2.1", false, http.StatusOK, func(c *Cloud) any {
			return object{"version": c.novaVersion(true)}
		}),
		r(http.MethodGet, "/servers", ListServers, (*Cloud).listServers),
		r(http.MethodGet, "/servers/detail", ListServers, (*Cloud).listServers),
		r(http.MethodGet, "/servers/{id}", GetServer, onServer((*Cloud).getServer)),
		r(http.MethodDelete, "/servers/{id}", DeleteServer, onServer((*Cloud).deleteServer)),
		action("lock", func(s *server) { s.Locked = true }),
		action("unlock", func(s *server) { s.Locked = false }),
		r(http.MethodGet, "/servers/{id}/os-volume_attachments", ListAttachments, onServer((*Cloud).listAttachments)),
		r(http.MethodPost, "/servers/{id}/os-volume_attachments", AttachVolume, onServer((*Cloud).attachVolume)),
		r(http.MethodGet, "/servers/{id}/os-volume_attachments/{volume}", GetAttachment, onServer((*Cloud).getAttachment)),
		r(http.MethodDelete, "/servers/{id}/os-volume_attachments/{volume}", DetachVolume, onServer((*Cloud).detachVolume)),
		r(http.MethodPost, "/os-server-external-events", SendEvents, (*Cloud).sendEvents),
	}
}

// novaLegacyVersion returns the version document of the API without microversions, which Nova still
// lists.
func (c *Cloud) novaLegacyVersion() object {
	return object{
		"id": "v2.0", "status": "SUPPORTED", "updated": "2011-01-21T11:33:21Z", "version": "", "min_version": "",
		"links": []any{link("self", c.url+computePath+"/v2/")},
	}
}

// novaVersion returns the version document of the API with microversions; long adds the fields of
// the answer to /v2.1.
func (c *Cloud) novaVersion(long bool) object {
	v := object{
		"id": "v2.1", "status": "CURRENT", "updated": "2013-07-23T11:33:21Z",
		"version": c.novaVersions.highest.String(), "min_version": c.novaVersions.lowest.String(),
		"links": []any{link("self", c.url+computePath+"/v2.1/")},
	}
	if long {
		docs := link("describedby", "http://docs.openstack.org/")
		docs["type"] = "text/html"
		v["links"] = []any{link("self", c.url+computePath+"/v2.1/"), docs}
		v["media-types"] = []any{
			object{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"},
		}
	}
	return v
}

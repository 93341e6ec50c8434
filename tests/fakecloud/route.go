package fakecloud

import (
	"net/http"
	"strings"
)

// handler answers one call. The caller holds the mutex of the cloud.
type handler func(c *Cloud, x *exchange) *reply

// route assigns a handler to a method and a path.
type route struct {
	service      string // path prefix of the service
	method       string
	path         string // below the service; {name} matches one segment
	action       string // key of the body; empty if the route is not an action
	call         Call
	needsToken   bool
	omitsHeaders bool // the answer has no headers for the version and the request ID
	minMinor     int  // lowest minor microversion that has the route
	handle       handler
}

// matchPath reports whether the segments match the path of the route, and returns the segments that
// the {names} match.
func (rt route) matchPath(segments []string) (map[string]string, bool) {
	want := strings.Split(strings.Trim(rt.path, "/"), "/")
	if len(want) != len(segments) {
		return nil, false
	}
	values := map[string]string{}
	for i, w := range want {
		if name, ok := strings.CutPrefix(w, "{"); ok && segments[i] != "" {
			values[strings.TrimSuffix(name, "}")] = segments[i]
			continue
		}
		if w != segments[i] {
			return nil, false
		}
	}
	return values, true
}

// route sets the route of a request. Since Cinder 3.67 and Nova 2.18 the project ID in the path
// is optional; the fake accepts paths without it at every version.
func (c *Cloud) route(x *exchange) {
	service, rest := splitService(x.http.URL.Path)
	x.route = route{service: service, call: UnknownCall, needsToken: service != ""}
	project, rest := splitProject(service, rest)
	segments := strings.Split(strings.Trim(rest, "/"), "/")
	for _, r := range c.routes {
		if r.service != service || r.method != x.http.Method {
			continue
		}
		values, ok := r.matchPath(segments)
		if !ok {
			continue
		}
		if r.action != "" {
			x.action = firstKey(x.body)
			if r.action != x.action {
				continue
			}
		}
		x.route, x.values, x.action = r, values, r.action
		break
	}
	if x.values == nil {
		x.values = map[string]string{}
	}
	x.route.needsToken = x.route.needsToken || project != "" // also Nova's version document
	x.values["project"] = project
}

// splitProject splits the project ID from the path below a service. Without one, and for the path
// of the project itself, of which Cinder has no document, it returns the path as it is.
func splitProject(service, path string) (project, rest string) {
	version := map[string]string{volumePath: "/v3/", computePath: "/v2.1/"}[service]
	below, ok := strings.CutPrefix(path, version)
	first, after, _ := strings.Cut(below, "/")
	if version == "" || !ok || !isProjectID(first) || service == volumePath && after == "" {
		return "", path
	}
	return first, version + after
}

// splitService splits the path prefix of a service from a path.
func splitService(path string) (service, rest string) {
	for _, s := range []string{identityPath, volumePath, computePath} {
		if rest, ok := strings.CutPrefix(path, s); ok && (rest == "" || rest[0] == '/') {
			return s, rest
		}
	}
	return "", path
}

// isProjectID reports whether s has the form of a project ID: 32 hexadecimal digits.
func isProjectID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

func firstKey(o object) string {
	for k := range o {
		return k
	}
	return ""
}

// versionDocument returns a handler that answers with the versions of a service.
func versionDocument(status int, body func(*Cloud) any) handler {
	return func(c *Cloud, _ *exchange) *reply { return newReply(status, body(c)) }
}

func link(rel, href string) object { return object{"rel": rel, "href": href} }

// discoveryRoute returns the route of a version document.
func discoveryRoute(service, path string, auth bool, status int, body func(*Cloud) any) route {
	return route{
		service:    service,
		method:     http.MethodGet,
		path:       path,
		call:       Discover,
		needsToken: auth,
		handle:     versionDocument(status, body),
	}
}

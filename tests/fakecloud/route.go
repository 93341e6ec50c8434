package fakecloud

import (
	"net/http"
	"strings"
)

// handler does one call. The cloud's lock is held.
type handler func(c *Cloud, x *exchange) *reply

// route leads requests to a handler.
type route struct {
	service string // path of the service
	method  string
	path    string // below the service, with {names}
	action  string // key of the body, for an action
	call    Call
	auth    bool
	bare    bool // neither version nor request ID in the answer
	since   int  // minor microversion that brought it
	handle  handler
}

// match compares the path; {names} stand for one segment each.
func (r route) match(segments []string) (map[string]string, bool) {
	want := strings.Split(strings.Trim(r.path, "/"), "/")
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

// route finds the handler of a request. Since Cinder 3.67 the project in the
// path is optional.
func (c *Cloud) route(x *exchange) {
	service, rest := splitService(x.http.URL.Path)
	x.route = route{service: service, call: Unknown, auth: service != ""}
	project := ""
	if below, ok := strings.CutPrefix(rest, "/v3/"); ok && service == volumePath {
		first, after, _ := strings.Cut(below, "/")
		if isID(first) && after != "" {
			project, rest = first, "/v3/"+after
		}
	}
	segments := strings.Split(strings.Trim(rest, "/"), "/")
	for _, r := range c.routes {
		if r.service != service || r.method != x.http.Method {
			continue
		}
		values, ok := r.match(segments)
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
	x.values["project"] = project
}

func splitService(path string) (service, rest string) {
	for _, s := range []string{identityPath, volumePath, computePath} {
		if rest, ok := strings.CutPrefix(path, s); ok && (rest == "" || rest[0] == '/') {
			return s, rest
		}
	}
	return "", path
}

// isID tells an identifier of a project or the like: 32 hexadecimal digits.
func isID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

func firstKey(o object) string {
	for k := range o {
		return k
	}
	return ""
}

// versionDocument answers a discovery request.
func versionDocument(status int, body func(*Cloud) any) handler {
	return func(c *Cloud, _ *exchange) *reply { return answer(status, body(c)) }
}

func link(rel, href string) object { return object{"rel": rel, "href": href} }

func discovery(service, path string, auth bool, status int, body func(*Cloud) any) route {
	return route{service: service, method: http.MethodGet, path: path, call: Discover, auth: auth, handle: versionDocument(status, body)}
}

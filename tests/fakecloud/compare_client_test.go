package fakecloud_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// comparedCloud is one of the two clouds that the comparison calls: the fake or a real one. It
// sends plain HTTP requests, so that no part of an answer is lost, and records the answers.
type comparedCloud struct {
	*testing.T
	identity, volume, compute string // base URLs of the services; volume ends with the project ID
	image                     string // base URL of the image service; only the real cloud has one
	user, admin               string // tokens
	adminVolume               string // base URL of the volume service for the administrator
	steps                     []step
	ids                       map[string]string // IDs of this cloud by the names that the script gave
}

// step is the part of one answer that is compared. It is also a line of testdata/zed.json.
type step struct {
	Label   string   `json:"label"`
	Status  int      `json:"status,omitempty"`
	Headers []string `json:"headers,omitempty"`
	Body    any      `json:"body,omitempty"`    // types in place of values
	Message string   `json:"message,omitempty"` // of an error
	States  []string `json:"states,omitempty"`  // states of an object, in the order that polling saw
}

// apiCall is one request of the script.
type apiCall struct {
	label   string
	method  string
	path    string // below the volume service, or below the service of a prefix: see baseURL
	version string // microversion; empty: the header is not sent
	body    any
	header  map[string]string // replaces headers; an empty value removes the header
	admin   bool
	save    string // name under which the ID in the answer is kept
}

func httpGet(label, path string) apiCall {
	return apiCall{label: label, method: http.MethodGet, path: path}
}

func httpDelete(label, path string) apiCall {
	return apiCall{label: label, method: http.MethodDelete, path: path}
}

func httpPost(label, path string, body any) apiCall {
	return apiCall{label: label, method: http.MethodPost, path: path, body: body}
}

func httpPut(label, path string, body any) apiCall {
	return apiCall{label: label, method: http.MethodPut, path: path, body: body}
}

// at returns the call with a microversion.
func (a apiCall) at(version string) apiCall {
	a.version = version
	return a
}

// with returns the call with one header replaced.
func (a apiCall) with(header, value string) apiCall {
	a.header = map[string]string{header: value}
	return a
}

// withoutToken returns the call without the token of the user.
func (a apiCall) withoutToken() apiCall { return a.with("X-Auth-Token", "") }

// asAdmin returns the call with the token and the project of the administrator.
func (a apiCall) asAdmin() apiCall {
	a.admin = true
	return a
}

// saveAs returns the call with the name under which the ID in the answer is kept.
func (a apiCall) saveAs(name string) apiCall {
	a.save = name
	return a
}

const jsonType = "application/json"

// apiReply is the answer to a call.
type apiReply struct {
	status int
	header http.Header
	body   []byte
}

// baseURL returns the base URL of the service that the prefix of the call's path names, the rest of
// the path, and the name of the service in the microversion header.
func (c *comparedCloud) baseURL(a apiCall) (base, path, service string) {
	prefix, rest, _ := strings.Cut(a.path, ":")
	switch prefix {
	case "compute":
		return c.compute, rest, "compute"
	case "identity":
		return c.identity, rest, "volume"
	case "image":
		return c.image, rest, "volume"
	case "root": // the volume service without its version and project
		root, _, _ := strings.Cut(c.volume, "/v3")
		return root, rest, "volume"
	case "novaroot":
		return strings.TrimSuffix(c.compute, "/v2.1"), rest, "volume"
	}
	if a.admin {
		return c.adminVolume, a.path, "volume"
	}
	return c.volume, a.path, "volume"
}

// send sends the request and returns the answer.
func (c *comparedCloud) send(a apiCall) apiReply {
	c.Helper()
	base, path, service := c.baseURL(a)
	var body io.Reader
	switch b := a.body.(type) {
	case nil:
	case string: // is sent as it is
		body = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			c.Fatal(err)
		}
		body = strings.NewReader(c.fillIDs(string(raw)))
	}
	req, err := http.NewRequestWithContext(c.Context(), a.method, base+c.fillIDs(path), body)
	if err != nil {
		c.Fatal(err)
	}
	token := c.user
	if a.admin {
		token = c.admin
	}
	req.Header.Set("X-Auth-Token", token)
	req.Header.Set("Accept", jsonType)
	req.Header.Set("Content-Type", jsonType)
	if a.version != "" {
		req.Header.Set("OpenStack-API-Version", service+" "+a.version)
	}
	for k, v := range a.header {
		if v == "" {
			req.Header.Del(k)
			continue
		}
		req.Header.Set(k, c.fillIDs(v))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.Fatal(a.label, err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		c.Fatal(err)
	}
	return apiReply{resp.StatusCode, resp.Header, raw}
}

// fillIDs replaces the {names} of the script by the IDs of this cloud.
func (c *comparedCloud) fillIDs(text string) string {
	for name, id := range c.ids {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

// record sends the request, appends the compared part of the answer to c.steps and keeps the ID
// in the answer if the call asks for it.
func (c *comparedCloud) record(a apiCall) {
	c.Helper()
	resp := c.send(a)
	st := step{Label: a.label, Status: resp.status}
	for _, h := range []string{
		"Retry-After", "Openstack-Api-Version", "X-Openstack-Request-Id", "X-Subject-Token", "Www-Authenticate",
	} {
		if resp.header.Get(h) != "" {
			value := h
			if h == "Retry-After" || h == "Openstack-Api-Version" {
				value += ": " + resp.header.Get(h)
			}
			st.Headers = append(st.Headers, value)
		}
	}
	var body any
	if len(resp.body) > 0 {
		if err := json.Unmarshal(resp.body, &body); err != nil {
			body = "not JSON"
		}
		if resp.status >= http.StatusBadRequest {
			st.Message = c.normalize(errorMessage(body))
		}
		st.Body = shapeOf(body)
	}
	if a.save != "" {
		id := findID(body)
		if id == "" {
			c.Fatalf("%s: the answer has no ID: %s", a.label, resp.body)
		}
		c.ids[a.save] = id
	}
	c.steps = append(c.steps, st)
}

// recordSnapshotDeletion records the states of a snapshot from which a backup was made, after the
// script has deleted the snapshot. Cinder may still be removing the temporary volume of that
// backup. Then Cinder treats the snapshot as busy and sets it back to available, so
// recordSnapshotDeletion repeats the deletion.
func (c *comparedCloud) recordSnapshotDeletion(name string) {
	c.Helper()
	path := "/snapshots/{" + name + "}"
	var states []string
	for range 10 {
		states = c.pollStates(name+" gone", path, "snapshot", "404", "available")
		if states[len(states)-1] == "404" {
			c.steps = append(c.steps, step{Label: name + " gone", States: states})
			return
		}
		sleep(c.Context(), time.Second)
		c.send(httpDelete(name+" deleted", path))
	}
	c.Fatalf("%s deleted 10 times: got the states %v after the last deletion, want 404", name, states)
}

// recordStates records the states of an object until it has the last state. The state of an object
// that does not exist is "404".
func (c *comparedCloud) recordStates(label, path, kind, last string) {
	c.Helper()
	c.steps = append(c.steps, step{Label: label, States: c.pollStates(label, path, kind, last)})
}

// pollStates reads an object repeatedly and returns its states, without repetitions, until it has
// one of the last states. While c.ids has a "size", a volume must also have that size in GiB.
func (c *comparedCloud) pollStates(label, path, kind string, last ...string) []string {
	c.Helper()
	states := []string{}
	version := "3.70"
	if strings.HasPrefix(path, "compute:") {
		version = "2.79"
	}
	deadline := time.Now().Add(5 * time.Minute)
	for time.Now().Before(deadline) {
		resp := c.send(httpGet(label, path).at(version))
		state := fmt.Sprint(resp.status)
		if resp.status == http.StatusOK {
			var body map[string]map[string]any
			if err := json.Unmarshal(resp.body, &body); err != nil {
				c.Fatal(err)
			}
			state = fmt.Sprint(body[kind]["status"])
			isLast := slices.Contains(last, state)
			if want := c.ids["size"]; want != "" && kind == "volume" && isLast && fmt.Sprint(body[kind]["size"]) != want {
				state += " at the old size"
			}
		}
		if len(states) == 0 || states[len(states)-1] != state {
			states = append(states, state)
		}
		if slices.Contains(last, state) {
			return states
		}
		if resp.status >= http.StatusBadRequest {
			break
		}
		sleep(c.Context(), 20*time.Millisecond)
	}
	c.Fatalf("%s: got the states %v, want the last to be %s", label, states, strings.Join(last, " or "))
	return nil
}

// signIn gets the tokens of the user and the administrator, and the base URLs from the catalog.
func (c *comparedCloud) signIn(password string) {
	c.Helper()
	token := func(name string) (id, volume, compute string) {
		resp := c.send(httpPost("token", "identity:/auth/tokens", passwordAuth(name, password, name)))
		if resp.status != http.StatusCreated {
			c.Fatalf("no token for %s: %s", name, resp.body)
		}
		var body struct {
			Token struct {
				Catalog []struct {
					Type      string
					Endpoints []struct{ Interface, URL string }
				}
			}
		}
		if err := json.Unmarshal(resp.body, &body); err != nil {
			c.Fatal(err)
		}
		for _, e := range body.Token.Catalog {
			for _, p := range e.Endpoints {
				switch {
				case p.Interface != "public":
				case e.Type == "block-storage":
					volume = p.URL
				case e.Type == "image":
					c.image = p.URL
				case e.Type == "compute":
					compute = strings.TrimSuffix(p.URL, "/")
				}
			}
		}
		return resp.header.Get("X-Subject-Token"), volume, compute
	}
	c.admin, c.adminVolume, _ = token("admin")
	c.user, c.volume, c.compute = token("csi")
	c.ids["project"] = c.volume[strings.LastIndex(c.volume, "/")+1:]
}

// passwordAuth returns the body of a request for a token; without a project the token has no scope.
func passwordAuth(user, password, project string) object {
	domain := object{"name": "Default"}
	auth := object{"identity": object{
		"methods":  []string{"password"},
		"password": object{"user": object{"name": user, "password": password, "domain": domain}},
	}}
	if project != "" {
		auth["scope"] = object{"project": object{"name": project, "domain": domain}}
	}
	return object{"auth": auth}
}

// readCloudsYAML returns the URL of Keystone and the password of the cloud "csi". The fake and the
// rig write clouds.yaml in the same layout.
func readCloudsYAML(t *testing.T, path string) (identity, password string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(raw), "  csi:")
	field := func(key string) string {
		_, rest, _ := strings.Cut(section, key+":")
		line, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(line)
	}
	identity, password = field("auth_url"), field("password")
	if identity == "" || password == "" {
		t.Fatalf("%s has no cloud csi with auth_url and password", path)
	}
	return identity, password
}

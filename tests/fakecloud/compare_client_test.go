package fakecloud_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// side is one of the two clouds that are compared, spoken to in plain HTTP so
// that nothing of the answers is lost.
type side struct {
	*testing.T
	identity, volume, compute string // addresses; volume ends with the project
	image                     string // address of the image service; only the real cloud has one
	user, admin               string // tokens
	adminVolume               string
	steps                     []step
	ids                       map[string]string // names that the script gave, and the IDs of this cloud
}

// step is what is compared of one answer.
type step struct {
	Label   string   `json:"label"`
	Status  int      `json:"status,omitempty"`
	Headers []string `json:"headers,omitempty"`
	Body    any      `json:"body,omitempty"`    // shape of the body
	Message string   `json:"message,omitempty"` // of an error
	States  []string `json:"states,omitempty"`  // in passing
}

// ask is one request of the script.
type ask struct {
	label   string
	method  string // default GET
	path    string // below the volume service; "compute:…", "identity:…" for the others
	version string // microversion
	body    any
	header  map[string]string // overrides; an empty value removes
	admin   bool
	save    string // name for the ID in the answer
}

const jsonType = "application/json"

// got is an answer.
type got struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request and returns the answer.
func (s *side) do(a ask) got {
	s.Helper()
	base, path, service := s.volume, a.path, "volume"
	if a.admin {
		base = s.adminVolume
	}
	for prefix, address := range map[string]string{"compute": s.compute, "identity": s.identity, "image": s.image, "root": strings.Split(s.volume, "/v3")[0], "novaroot": strings.TrimSuffix(s.compute, "/v2.1")} {
		if rest, ok := strings.CutPrefix(path, prefix+":"); ok {
			base, path = address, rest
			if prefix == "compute" {
				service = prefix
			}
		}
	}
	var body io.Reader
	switch b := a.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			s.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	if a.method == "" {
		a.method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(s.Context(), a.method, base+s.fill(path), body)
	if err != nil {
		s.Fatal(err)
	}
	token := s.user
	if a.admin {
		token = s.admin
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
		req.Header.Set(k, s.fill(v))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(a.label, err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		s.Fatal(err)
	}
	return got{resp.StatusCode, resp.Header, raw}
}

// fill puts the IDs of this cloud for the {names} of the script.
func (s *side) fill(text string) string {
	for name, id := range s.ids {
		text = strings.ReplaceAll(text, "{"+name+"}", id)
	}
	return text
}

// run does a request, records what is compared and keeps the ID.
func (s *side) run(a ask) {
	s.Helper()
	if m, ok := a.body.(map[string]any); ok {
		raw, err := json.Marshal(m)
		if err != nil {
			s.Fatal(err)
		}
		a.body = s.fill(string(raw))
	}
	resp := s.do(a)
	raw := resp.body
	st := step{Label: a.label, Status: resp.status}
	for _, h := range []string{"Retry-After", "Openstack-Api-Version", "X-Openstack-Request-Id", "X-Subject-Token", "Www-Authenticate"} {
		if resp.header.Get(h) != "" {
			value := h
			if h == "Retry-After" || h == "Openstack-Api-Version" {
				value += ": " + resp.header.Get(h)
			}
			st.Headers = append(st.Headers, value)
		}
	}
	var body any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &body); err != nil {
			body = "not JSON"
		}
		if resp.status >= 400 {
			st.Message = normalize(s, message(body))
		}
		st.Body = shape(body)
	}
	if a.save != "" {
		if id := findID(body); id != "" {
			s.ids[a.save] = id
		} else {
			s.Fatalf("%s: no ID in %s", a.label, raw)
		}
	}
	s.steps = append(s.steps, st)
}

// watchGone is watch for a snapshot of which a backup has been made and that
// was asked to go. Cinder may still be removing the backup's temporary volume,
// and then takes the snapshot for busy and puts it back: it is asked again.
func (s *side) watchGone(name string) {
	s.Helper()
	ask := ask{label: name + " deleted", method: http.MethodDelete, path: "/snapshots/{" + name + "}"}
	var states []string
	for range 10 {
		if states = s.states(name+" gone", "/snapshots/{"+name+"}", "snapshot", "404", "available"); states[len(states)-1] == "404" {
			s.steps = append(s.steps, step{Label: name + " gone", States: states})
			return
		}
		pause(s.Context(), time.Second)
		s.do(ask)
	}
	s.Fatalf("%s: it went %v each time, not to 404", ask.label, states)
}

// watch records the states that a thing goes through until it has the last,
// or until it is gone ("404").
func (s *side) watch(label, path, kind, last string) {
	s.Helper()
	s.steps = append(s.steps, step{Label: label, States: s.states(label, path, kind, last)})
}

// states returns the states that a thing goes through until it has one of the
// last.
func (s *side) states(label, path, kind string, last ...string) []string {
	s.Helper()
	states := []string{}
	version := "3.70"
	if strings.HasPrefix(path, "compute:") {
		version = "2.79"
	}
	deadline := time.Now().Add(5 * time.Minute)
	for time.Now().Before(deadline) {
		resp := s.do(ask{label: label, path: path, version: version})
		state := fmt.Sprint(resp.status)
		if resp.status == http.StatusOK {
			var body map[string]map[string]any
			if err := json.Unmarshal(resp.body, &body); err != nil {
				s.Fatal(err)
			}
			state = fmt.Sprint(body[kind]["status"])
			if want := s.ids["size"]; want != "" && kind == "volume" && slices.Contains(last, state) && fmt.Sprint(body[kind]["size"]) != want {
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
		pause(s.Context(), 20*time.Millisecond)
	}
	s.Fatalf("%s: it went %v, not to %s", label, states, strings.Join(last, " or "))
	return nil
}

// shape replaces values by their types; the elements of lists are put
// together into one.
func shape(v any) any {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "bool"
	case float64:
		return "number"
	case []any:
		var all any = "empty"
		for _, e := range v {
			all = merge(all, shape(e))
		}
		return []any{all}
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			switch {
			case ofType(k):
			case free(k):
				out[k] = "free"
			case verbatim(k):
				out[k] = e
			default:
				out[k] = shape(e)
			}
		}
		return out
	}
	return fmt.Sprintf("%T", v)
}

// verbatim tells the fields whose very values are compared.
func verbatim(key string) bool {
	return slices.Contains([]string{"event_id", "user_message", "message_level", "resource_type", "min_version", "code"}, key)
}

// free tells the objects whose keys are the user's or the administrator's.
func free(key string) bool {
	return key == "metadata" || key == "connection_info" || key == "extra_specs"
}

// ofType tells the quota of one volume type, "gigabytes_rbd".
func ofType(key string) bool {
	kind, name, _ := strings.Cut(key, "_")
	return slices.Contains([]string{"volumes", "gigabytes", "snapshots"}, kind) && name != "" && name != "links"
}

func merge(a, b any) any {
	ma, ok1 := a.(map[string]any)
	mb, ok2 := b.(map[string]any)
	switch {
	case ok1 && ok2:
		for k, v := range mb {
			if have, ok := ma[k]; ok {
				v = merge(have, v)
			}
			ma[k] = v
		}
		return ma
	case a == "empty" || a == "null":
		return b
	}
	return a
}

func message(body any) string {
	m, _ := body.(map[string]any)
	for _, v := range m {
		if o, ok := v.(map[string]any); ok {
			return fmt.Sprint(o["message"])
		}
	}
	return ""
}

// normalize takes out of a message what differs from cloud to cloud.
func normalize(s *side, text string) string {
	text, _, _ = strings.Cut(text, "\n")
	for name, id := range s.ids {
		if len(id) > 20 {
			text = strings.ReplaceAll(text, id, "{"+name+"}")
		}
	}
	text = regexp.MustCompile(`req-[0-9a-f-]{36}`).ReplaceAllString(text, "req-ID")
	text = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`).ReplaceAllString(text, "ID")
	text = regexp.MustCompile(`maximum is [0-9.]+`).ReplaceAllString(text, "maximum is MAX")
	return regexp.MustCompile(`and \d+G has been consumed`).ReplaceAllString(text, "and USED has been consumed")
}

func findID(body any) string {
	m, _ := body.(map[string]any)
	for _, v := range m {
		if o, ok := v.(map[string]any); ok {
			if id, ok := o["id"].(string); ok {
				return id
			}
		}
	}
	return ""
}

// signIn gets the tokens and the addresses from the catalog.
func (s *side) signIn(password string) {
	s.Helper()
	token := func(name string) (id, volume, compute string) {
		resp := s.do(ask{label: "token", method: http.MethodPost, path: "identity:/auth/tokens", body: passwordAuth(name, password, name)})
		if resp.status != http.StatusCreated {
			s.Fatalf("no token for %s: %s", name, resp.body)
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
			s.Fatal(err)
		}
		for _, e := range body.Token.Catalog {
			for _, p := range e.Endpoints {
				switch {
				case p.Interface != "public":
				case e.Type == "block-storage":
					volume = p.URL
				case e.Type == "image":
					s.image = p.URL
				case e.Type == "compute":
					compute = strings.TrimSuffix(p.URL, "/")
				}
			}
		}
		return resp.header.Get("X-Subject-Token"), volume, compute
	}
	s.admin, s.adminVolume, _ = token("admin")
	s.user, s.volume, s.compute = token("csi")
	s.ids["project"] = s.volume[strings.LastIndex(s.volume, "/")+1:]
}

func passwordAuth(user, password, project string) map[string]any {
	domain := map[string]any{"name": "Default"}
	auth := map[string]any{"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{"user": map[string]any{"name": user, "password": password, "domain": domain}}}}
	if project != "" {
		auth["scope"] = map[string]any{"project": map[string]any{"name": project, "domain": domain}}
	}
	return map[string]any{"auth": auth}
}

// cloudsYAML reads the address of Keystone and the password out of a
// clouds.yaml, which the fake and the test cloud write alike.
func cloudsYAML(t *testing.T, path string) (identity, password string) {
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

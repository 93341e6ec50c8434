package fakecloud_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/fakecloud"
)

// realCloud is the environment variable with the path of the clouds.yaml of a
// real cloud, in which "csi" and "admin" are projects of their own.
const realCloud = "GROWVOL_OPENSTACK_CLOUDS_YAML"

var update = flag.Bool("update", false, "write down what the real cloud answered")

// recorded is what a real cloud answered to the script.
var recorded = filepath.Join("testdata", "zed.json")

// TestFakeAnswersLikeRecordedCloud runs the script against the fake and
// compares it with what a real Cinder, Nova and Keystone answered.
func TestFakeAnswersLikeRecordedCloud(t *testing.T) {
	raw, err := os.ReadFile(recorded)
	if err != nil {
		t.Fatal(err)
	}
	var want []step
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	compare(t, want, runFake(t))
}

// TestRealCloudAnswersLikeRecorded runs the script against a real cloud, so
// that the record does not grow old.
func TestRealCloudAnswersLikeRecorded(t *testing.T) {
	path := os.Getenv(realCloud)
	if path == "" {
		t.Skipf("no real cloud: %s is not set", realCloud)
	}
	answers := runReal(t, path)
	if *update {
		record(t, answers)
	}
	compare(t, answers, runFake(t))
}

// record writes one line for each step.
func record(t *testing.T, answers []step) {
	t.Helper()
	var out []string
	for _, a := range answers {
		raw, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(raw))
	}
	if err := os.WriteFile(recorded, []byte("[\n"+strings.Join(out, ",\n")+"\n]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func runFake(t *testing.T) []step {
	t.Helper()
	cloud := fakecloud.Start(t, fakecloud.Options{Dependent: true, Quota: &fakecloud.Quota{Gigabytes: 1000, Volumes: 10, Snapshots: 10, PerVolumeGigabytes: -1, Backups: 10, BackupGigabytes: 1000}})
	cloud.SetCapacity(500)
	cloud.SetLatency(fakecloud.AnyCall, fakecloud.Latency{Done: fakecloud.Fixed(150 * time.Millisecond)})
	// What the script asks in the middle of, however busy this machine is.
	for _, call := range []fakecloud.Call{fakecloud.CreateBackup, fakecloud.DetachVolume, fakecloud.DeleteServer} {
		cloud.SetLatency(call, fakecloud.Latency{Done: fakecloud.Fixed(2 * time.Second)})
	}
	path, err := cloud.CloudsYAML(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := newSide(t, path)
	s.ids["server"] = cloud.AddServer("")
	s.script()
	return s.steps
}

func runReal(t *testing.T, path string) []step {
	t.Helper()
	s := newSide(t, path)
	defer s.cleanUp()
	// Other tests of this cloud have set other quotas.
	reset := s.do(ask{label: "quota reset", method: http.MethodDelete, path: "/os-quota-sets/{project}", admin: true})
	if reset.status != http.StatusOK {
		t.Fatalf("the quota cannot be reset: %s", reset.body)
	}
	s.boot()
	s.script()
	return s.steps
}

func newSide(t *testing.T, path string) *side {
	t.Helper()
	s := &side{T: t, ids: map[string]string{}}
	var password string
	s.identity, password = cloudsYAML(t, path)
	s.signIn(password)
	s.ids["password"] = password
	return s
}

// compare reports every step that differs.
func compare(t *testing.T, want, have []step) {
	t.Helper()
	byLabel := map[string]step{}
	for _, h := range have {
		byLabel[h.Label] = h
	}
	if len(want) != len(have) {
		t.Errorf("%d steps on the real cloud, %d on the fake", len(want), len(have))
	}
	for _, w := range want {
		h, ok := byLabel[w.Label]
		if !ok {
			t.Errorf("%s: not on the fake", w.Label)
			continue
		}
		for _, d := range w.differs(plain(t, h)) {
			t.Errorf("%s: %s", w.Label, d)
		}
	}
}

// plain gives a step the types that it has after reading it from JSON.
func plain(t *testing.T, s step) step {
	t.Helper()
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var out step
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// differs lists what the fake has otherwise than the real cloud.
func (s step) differs(fake step) []string {
	var out []string
	add := func(what string, actual, fake any) {
		out = append(out, fmt.Sprintf("%s\n\treal %v\n\tfake %v", what, actual, fake))
	}
	if s.Status != fake.Status {
		add("status", s.Status, fake.Status)
	}
	if s.Message != fake.Message {
		add("message", s.Message, fake.Message)
	}
	if !slices.Equal(s.Headers, fake.Headers) {
		add("headers", s.Headers, fake.Headers)
	}
	if !passes(s.States, fake.States) {
		add("states", s.States, fake.States)
	}
	return append(out, bodyDiffers("body", s.Body, fake.Body)...)
}

// passes tells whether two courses of states agree: the same end, and one of
// them has all that the other has in the same order. Polling may miss some.
func passes(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	if len(a) > len(b) {
		a, b = b, a
	}
	if a[len(a)-1] != b[len(b)-1] {
		return false
	}
	for _, s := range b {
		if len(a) > 0 && a[0] == s {
			a = a[1:]
		}
	}
	return len(a) == 0
}

func bodyDiffers(where string, actual, fake any) []string {
	mr, ok1 := actual.(map[string]any)
	mf, ok2 := fake.(map[string]any)
	if ok1 && ok2 {
		var out []string
		keys := map[string]bool{}
		for k := range mr {
			keys[k] = true
		}
		for k := range mf {
			keys[k] = true
		}
		for k := range keys {
			r, f := mr[k], mf[k]
			switch {
			case r == nil:
				out = append(out, fmt.Sprintf("%s.%s is only on the fake", where, k))
			case f == nil:
				out = append(out, fmt.Sprintf("%s.%s is only on the real cloud: %v", where, k, r))
			default:
				out = append(out, bodyDiffers(where+"."+k, r, f)...)
			}
		}
		sort.Strings(out)
		return out
	}
	lr, ok1 := actual.([]any)
	lf, ok2 := fake.([]any)
	if ok1 && ok2 {
		return bodyDiffers(where+"[]", lr[0], lf[0])
	}
	if !reflect.DeepEqual(actual, fake) {
		return []string{fmt.Sprintf("%s: real %v, fake %v", where, actual, fake)}
	}
	return nil
}

// boot starts a server on the real cloud.
func (s *side) boot() {
	s.Helper()
	images := s.do(ask{label: "images", path: "image:/v2/images"})
	var found struct {
		Images []struct {
			ID     string
			Kernel string `json:"kernel_id"`
		}
	}
	if err := json.Unmarshal(images.body, &found); err != nil {
		s.Fatal(err)
	}
	image := ""
	for _, i := range found.Images {
		if i.Kernel != "" {
			image = i.ID
		}
	}
	if image == "" {
		s.Fatal("the real cloud has no image with a kernel; tests/openstack/image registers one")
	}
	resp := s.do(ask{
		label: "boot", method: http.MethodPost, path: "compute:/servers", version: "2.79",
		body: map[string]any{"server": map[string]any{"name": "fakecloud-compare", "imageRef": image, "flavorRef": "1", "networks": "none"}},
	})
	var body any
	if err := json.Unmarshal(resp.body, &body); err != nil || resp.status != http.StatusAccepted {
		s.Fatalf("no server: %s", resp.body)
	}
	s.ids["server"] = findID(body)
	s.watch("server", "compute:/servers/{server}", "server", "ACTIVE")
	s.steps = nil
}

// cleanUp deletes what the script and boot left on the real cloud. What is
// made from something else goes before it, so it takes rounds.
func (s *side) cleanUp() {
	s.Helper()
	paths := map[string]bool{}
	for name := range s.ids {
		kind, _, ok := strings.Cut(name, "-")
		switch {
		case ok:
			paths["/"+kind+"s/{"+name+"}"] = true
		case name == "server":
			paths["compute:/servers/{server}"] = true
		}
	}
	for deadline := time.Now().Add(5 * time.Minute); len(paths) > 0 && time.Now().Before(deadline); pause(s.Context(), 200*time.Millisecond) {
		for path := range paths {
			if s.do(ask{label: "clean up", method: http.MethodDelete, path: path}).status == http.StatusNotFound {
				delete(paths, path)
			}
		}
	}
	for path := range paths {
		s.Errorf("%s is still there", s.fill(path))
	}
}

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

// realCloudVariable is the environment variable with the path of the clouds.yaml of a real cloud.
// The comparison runs the same script against the fake and that cloud, in its projects "csi" and
// "admin".
const realCloudVariable = "GROWVOL_OPENSTACK_CLOUDS_YAML"

var update = flag.Bool("update", false, "record the answers of the real cloud")

// recordedFile has the answers of a real cloud to the script.
var recordedFile = filepath.Join("testdata", "zed.json")

// TestFakeAnswersLikeRecordedCloud compares the fake with the recorded answers of a real Cinder,
// Nova and Keystone.
func TestFakeAnswersLikeRecordedCloud(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(recordedFile)
	if err != nil {
		t.Fatal(err)
	}
	var want []step
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	compare(t, want, runFake(t))
}

// TestFakeAnswersLikeRealCloud compares the fake with a real cloud that runs. With the flag -update
// it also records the answers of that cloud.
func TestFakeAnswersLikeRealCloud(t *testing.T) {
	t.Parallel()
	path := os.Getenv(realCloudVariable)
	if path == "" {
		t.Skipf("no real cloud: %s is not set", realCloudVariable)
	}
	var answers, fake []step
	t.Run("run", func(t *testing.T) {
		t.Run("real", func(t *testing.T) { t.Parallel(); answers = runReal(t, path) })
		t.Run("fake", func(t *testing.T) { t.Parallel(); fake = runFake(t) })
	})
	if t.Failed() {
		return
	}
	if *update {
		writeRecorded(t, answers)
	}
	compare(t, answers, fake)
}

// writeRecorded writes the answers into the file of recorded answers, one line for each step.
func writeRecorded(t *testing.T, answers []step) {
	t.Helper()
	var out []string
	for _, a := range answers {
		raw, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(raw))
	}
	if err := os.WriteFile(recordedFile, []byte("[\n"+strings.Join(out, ",\n")+"\n]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// runFake returns the answers of the fake to the script.
func runFake(t *testing.T) []step {
	t.Helper()
	quota := &fakecloud.Quota{
		Gigabytes: 1000, Volumes: 10, Snapshots: 10, PerVolumeGigabytes: -1, Backups: 10, BackupGigabytes: 1000,
	}
	cloud := fakecloud.Start(t, fakecloud.Options{KeepClonedSnapshots: true, Quota: quota})
	cloud.SetCapacity(500)
	cloud.SetLatency(fakecloud.AnyCall, fakecloud.Latency{Work: fakecloud.Fixed(150 * time.Millisecond)})
	// The script sends calls while this work runs, also on a busy machine.
	for _, call := range []fakecloud.Call{fakecloud.CreateBackup, fakecloud.DetachVolume, fakecloud.DeleteServer} {
		cloud.SetLatency(call, fakecloud.Latency{Work: fakecloud.Fixed(2 * time.Second)})
	}
	path, err := cloud.WriteCloudsYAML(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := openCloud(t, path)
	c.ids["server"] = cloud.AddServer("")
	c.runScript()
	return c.steps
}

// runReal returns the answers of a real cloud to the script.
func runReal(t *testing.T, path string) []step {
	t.Helper()
	c := openCloud(t, path)
	defer c.cleanUp()
	// Other tests of this cloud set other quotas.
	reset := c.send(httpDelete("quota reset", "/os-quota-sets/{project}").asAdmin())
	if reset.status != http.StatusOK {
		t.Fatalf("reset the quota: got %d %s", reset.status, reset.body)
	}
	c.bootServer()
	c.runScript()
	return c.steps
}

// openCloud signs in to the clouds of a clouds.yaml.
func openCloud(t *testing.T, path string) *comparedCloud {
	t.Helper()
	c := &comparedCloud{T: t, ids: map[string]string{}}
	var password string
	c.identity, password = readCloudsYAML(t, path)
	c.signIn(password)
	c.ids["password"] = password
	return c
}

// compare fails the test for every step in which the fake differs from the real cloud.
func compare(t *testing.T, realSteps, fakeSteps []step) {
	t.Helper()
	byLabel := map[string]step{}
	for _, f := range fakeSteps {
		byLabel[f.Label] = f
	}
	if len(realSteps) != len(fakeSteps) {
		t.Errorf("got %d steps on the fake, want the %d steps on the real cloud", len(fakeSteps), len(realSteps))
	}
	for _, r := range realSteps {
		f, ok := byLabel[r.Label]
		if !ok {
			t.Errorf("%s: the fake has no such step", r.Label)
			continue
		}
		for _, d := range r.diff(throughJSON(t, f)) {
			t.Errorf("%s: %s", r.Label, d)
		}
	}
}

// throughJSON returns the step with the types of a step that was read from JSON.
func throughJSON(t *testing.T, s step) step {
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

// diff lists the differences of the fake from the real cloud.
func (s step) diff(fake step) []string {
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
	if !haveSameCourse(s.States, fake.States) {
		add("states", s.States, fake.States)
	}
	return append(out, diffBodies("body", s.Body, fake.Body)...)
}

// haveSameCourse reports whether two lists of states have the same end, and one list contains the
// states of the other in the same order. Polling may miss states.
func haveSameCourse(a, b []string) bool {
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

// diffBodies lists the differences of two shapes; where is the path of the shapes in the body.
func diffBodies(where string, actual, fake any) []string {
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
				out = append(out, diffBodies(where+"."+k, r, f)...)
			}
		}
		sort.Strings(out)
		return out
	}
	lr, ok1 := actual.([]any)
	lf, ok2 := fake.([]any)
	if ok1 && ok2 {
		return diffBodies(where+"[]", lr[0], lf[0])
	}
	if !reflect.DeepEqual(actual, fake) {
		return []string{fmt.Sprintf("%s: real %v, fake %v", where, actual, fake)}
	}
	return nil
}

// bootServer starts a server on the real cloud.
func (c *comparedCloud) bootServer() {
	c.Helper()
	images := c.send(httpGet("images", "image:/v2/images"))
	var found struct {
		Images []struct {
			ID     string
			Kernel string `json:"kernel_id"`
		}
	}
	if err := json.Unmarshal(images.body, &found); err != nil {
		c.Fatal(err)
	}
	image := ""
	for _, i := range found.Images {
		if i.Kernel != "" {
			image = i.ID
		}
	}
	if image == "" {
		c.Fatal("the real cloud has no image with a kernel (next step: register one with tests/openstack/image)")
	}
	resp := c.send(httpPost("boot", "compute:/servers", object{"server": object{
		"name": "fakecloud-compare", "imageRef": image, "flavorRef": "1", "networks": "none",
	}}).at("2.79"))
	var body any
	if err := json.Unmarshal(resp.body, &body); err != nil || resp.status != http.StatusAccepted {
		c.Fatalf("create a server: got %d %s", resp.status, resp.body)
	}
	c.ids["server"] = findID(body)
	c.recordStates("server", "compute:/servers/{server}", "server", "ACTIVE")
	c.steps = nil
}

// cleanUp deletes the objects that runScript and bootServer have left on the real cloud. An object
// cannot be deleted before the objects made from it, so cleanUp repeats the deletions until all are
// gone.
func (c *comparedCloud) cleanUp() {
	c.Helper()
	paths := map[string]bool{}
	for name := range c.ids {
		kind, _, ok := strings.Cut(name, "-")
		switch {
		case ok:
			paths["/"+kind+"s/{"+name+"}"] = true
		case name == "server":
			paths["compute:/servers/{server}"] = true
		}
	}
	deadline := time.Now().Add(5 * time.Minute)
	for len(paths) > 0 && time.Now().Before(deadline) {
		for path := range paths {
			if c.send(httpDelete("clean up", path)).status == http.StatusNotFound {
				delete(paths, path)
			}
		}
		sleep(c.Context(), 200*time.Millisecond)
	}
	for path := range paths {
		c.Errorf("%s still exists after the clean-up", c.fillIDs(path))
	}
}

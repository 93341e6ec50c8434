package kubernetes_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/kubernetes/conformance"
	"github.com/growvol/growvol/tests/must"
)

// conformanceVariable is the environment variable that selects the specs of
// Kubernetes' own suite for storage: all of them, the short part that every build
// runs, or those whose names match a regular expression.
const (
	conformanceVariable = "GROWVOL_CONFORMANCE"
	conformanceAll      = "all"
	conformanceShort    = "short"
)

// shortFocus matches the specs of conformanceShort.
const shortFocus = `\] volume-expand `

// machineNode is the name of the node that is this machine.
const machineNode = "node1"

// suiteTimeout bounds a run. The suite's own timeout is shorter, so that it has time
// to clean up.
const suiteTimeout = 3 * time.Hour

// resultsVariable is the environment variable with the Markdown file to which a run
// writes its results.
const resultsVariable = "GROWVOL_CONFORMANCE_RESULTS"

// Kubernetes' own suite for storage passes on the loop backend.
func TestConformanceOnLoop(t *testing.T) {
	skipWithoutCluster(t)
	c := newSuiteRun(t, "loop")
	if !hasSysResource(t) { // which ext3 and ext4 need to grow in use
		c.replace("fstype: ext4", "fstype: xfs")
		c.replace("ext3: {}, ext4: {}, ", "")
	}
	c.run("--procs=10")
}

// Kubernetes' own suite for storage passes on Cinder, on a node that is a Nova
// instance.
func TestConformanceOnCinder(t *testing.T) {
	skipWithoutCluster(t)
	c := newSuiteRun(t, "cinder")
	images, err := runScript(t.Context(), "", "suite", "images")
	must.Succeed(t, err)
	cloud := connectCloud(t, strings.Fields(images)...)
	t.Cleanup(func() {
		left, err := cloud.User.ListStorage(context.WithoutCancel(t.Context()))
		if err != nil || len(left) > 0 {
			t.Errorf("the suite has ended, but Cinder still has %v (%v)", left, err)
		}
	})
	makeOnlyNodes(t, instanceName)
	c.run("--procs=4")
}

// Kubernetes' own suite for storage passes on Ceph, on nodes that are guests with the kernel's
// client.
func TestConformanceOnCeph(t *testing.T) {
	skipWithoutCluster(t)
	run := newSuiteRun(t, "rbd")
	run.replace("clusterID: a", "clusterID: "+ceph.Cluster)
	images, err := runScript(t.Context(), "", "suite", "images")
	must.Succeed(t, err)
	c := connectCeph(t, strings.Fields(images)...)
	c.wantNoImagesLeft(t)
	makeOnlyNodes(t, slices.Sorted(maps.Keys(c.nodes))...)
	run.run("--procs=3")
}

// makeOnlyNodes moves the taint of the guests to the machine's node, until the end of the test: the
// suite's pods have no node selector.
func makeOnlyNodes(t *testing.T, guests ...string) {
	t.Helper()
	_, err := kubectl(t.Context(), "taint", "node", machineNode, nodeKindLabel+"=first:NoSchedule", "--overwrite")
	must.Succeed(t, err)
	t.Cleanup(func() {
		_, err := kubectl(context.WithoutCancel(t.Context()), "taint", "node", machineNode, nodeKindLabel+"-")
		if err != nil {
			t.Error(err)
		}
	})
	for _, name := range guests {
		must.Value(kubectl(t.Context(), "taint", "node", name, nodeKindLabel+"-"))(t)
	}
}

// suiteRun is a run of the suite on one backend.
type suiteRun struct {
	*testing.T
	backend  string
	focus    string            // regular expression for the names of specs; empty means all
	files    map[string]string // the texts of the examples, by name
	expected conformance.Expected
}

// newSuiteRun reads the variables, the examples and the expected results. It skips the
// test if no specs are selected.
func newSuiteRun(t *testing.T, backend string) *suiteRun {
	t.Helper()
	r := &suiteRun{T: t, backend: backend, focus: os.Getenv(conformanceVariable), files: map[string]string{}}
	switch r.focus {
	case "":
		t.Skipf("%s is not set (next step: run `make cluster-conformance`)", conformanceVariable)
	case conformanceAll:
		r.focus = ""
	case conformanceShort:
		r.focus = shortFocus
	}
	root := moduleRoot(t)
	for _, name := range append(r.classes(), r.driver()) {
		text, err := os.ReadFile(filepath.Join(root, "examples", name)) //nolint:gosec // of this repository
		must.Succeed(t, err)
		r.files[name] = string(text)
	}
	var err error
	r.expected, err = conformance.ExpectedOf(backend)
	must.Succeed(t, err)
	return r
}

// driver returns the name of the example that describes the driver to the suite.
func (r *suiteRun) driver() string { return "conformance/" + r.backend + ".yaml" }

// classes returns the names of the examples with the classes of the driver's example.
func (r *suiteRun) classes() []string {
	names := []string{r.backend + "/storageclass.yaml", r.backend + "/snapshotclass.yaml"}
	switch r.backend {
	case "cinder":
		names = append(names, "cinder/attributesclass.yaml")
	case "rbd":
		names = append(names, "rbd/attributesclass.yaml", "rbd/groupsnapshotclass.yaml")
	}
	return names
}

// replace replaces a text of the examples by one that fits this machine. It ends the
// test if no example contains the text.
func (r *suiteRun) replace(old, by string) {
	r.Helper()
	found := false
	for name, text := range r.files {
		found = found || strings.Contains(text, old)
		r.files[name] = strings.ReplaceAll(text, old, by)
	}
	if !found {
		r.Fatalf("no example contains %q", old)
	}
}

// run applies the classes, runs the suite and checks its report.
func (r *suiteRun) run(options ...string) {
	r.Helper()
	deleteAtEnd(r.T, "storageclass/growvol", "volumesnapshotclass/growvol", "volumegroupsnapshotclass/growvol",
		"volumeattributesclass/gold", "volumeattributesclass/limited")
	for _, class := range r.classes() {
		_, err := runInCluster(r.Context(), r.files[class], "kubectl", "apply", "-f", "-")
		must.Succeed(r.T, err)
	}
	driver := filepath.Join(r.TempDir(), "driver.yaml")
	must.Succeed(r.T, os.WriteFile(driver, []byte(r.files[r.driver()]), 0o600))
	report := filepath.Join(os.Getenv(clusterVariable), "log", "conformance-"+r.backend)
	start := time.Now()
	args := append([]string{"run", driver, report}, append(r.selection(), options...)...)
	// The script also fails if a spec does, which the report shows.
	_, runErr := runScriptWithin(r.Context(), suiteTimeout, "", "suite", args...)
	file, err := os.Open(report + ".json") //nolint:gosec // the rig's
	if err != nil {
		r.Fatalf("the suite has written no report: %v, %v (next step: read its log %s.log)", err, runErr, report)
	}
	defer file.Close() //nolint:errcheck // only read from
	r.check(must.Value(conformance.ReadReport(file))(r.T), time.Since(start))
}

// selection returns ginkgo's options that select the specs.
func (r *suiteRun) selection() []string {
	options := []string{"--focus=External Storage.*" + r.focus, "--timeout=" + (suiteTimeout - 10*time.Minute).String()}
	for _, e := range r.expected.Excluded {
		options = append(options, "--skip="+e.Match.String())
	}
	return options
}

// check fails the test for each problem of a report, and writes the results to the
// file of resultsVariable.
func (r *suiteRun) check(report conformance.Report, took time.Duration) {
	r.Helper()
	verdict := conformance.Judge(report, r.expected, r.focus == "")
	for _, problem := range verdict.Problems {
		r.Error(problem)
	}
	r.Logf("after %.0f s:\n%s", took.Seconds(), verdict.Markdown())
	file := os.Getenv(resultsVariable)
	if file == "" {
		return
	}
	specs := "All specs."
	if r.focus != "" {
		specs = fmt.Sprintf("Only specs that match `%s`.", r.focus)
	}
	text, err := os.ReadFile(file) //nolint:gosec // the user's choice
	must.Succeed(r.T, err)
	results := fmt.Sprintf("\n%s\n\n%s\n", specs, verdict.Markdown())
	changed, err := conformance.ReplaceSection(string(text), "results on "+r.backend, results)
	must.Succeed(r.T, err)
	must.Succeed(r.T, os.WriteFile(file, []byte(changed), 0o600))
}

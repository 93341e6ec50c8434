package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/kubernetes/conformance"
)

// conformanceVariable says how much of Kubernetes' own suite for storage is to
// be run: all of it, or the part that fits into every build, or the specs whose
// names match an expression.
const (
	conformanceVariable = "GROWVOL_CONFORMANCE"
	conformanceAll      = "all"
	conformanceShort    = "short"
)

// shortFocus matches the specs that every build runs.
const shortFocus = `\] (volume-expand|snapshottable|provisioning|volumeMode|multiVolume) `

// firstNode is the name of the cluster's node that is this machine.
const firstNode = "node1"

// suiteTimeout is the time limit of a run. The suite's own is shorter, so that it
// has time to clean up.
const suiteTimeout = 3 * time.Hour

// resultsVariable names the Markdown file into which the results of a run are
// written.
const resultsVariable = "GROWVOL_CONFORMANCE_RESULTS"

// Kubernetes' own suite for storage passes on the loop backend.
func TestConformanceOnLoop(t *testing.T) {
	needCluster(t)
	c := newConformance(t, "loop")
	if !capable(t) { // here ext3 and ext4 do not grow while they are mounted
		c.replace("fstype: ext4", "fstype: xfs")
		c.replace("ext3: {}, ext4: {}, ", "")
	}
	c.run("--procs=10")
}

// Kubernetes' own suite for storage passes on Cinder, on a node that is a Nova
// instance.
func TestConformanceOnCinder(t *testing.T) {
	needCluster(t)
	c := newConformance(t, "cinder")
	images, err := program(t.Context(), "", "suite", "images")
	check(t, err)
	cloud := joinCloud(t, strings.Fields(images)...)
	t.Cleanup(func() {
		left, err := cloud.User.Leftovers(context.WithoutCancel(t.Context()))
		if err != nil || len(left) > 0 {
			t.Errorf("the suite has ended, and Cinder still has %v (%v)", left, err)
		}
	})
	onlyInstance(t)
	c.run("--procs=4")
}

// onlyInstance makes the instance the only node that takes pods, for the time
// of the test: the suite's pods do not choose.
func onlyInstance(t *testing.T) {
	t.Helper()
	_, err := kubectl(t.Context(), "taint", "node", firstNode, nodeKind+"=first:NoSchedule", "--overwrite")
	check(t, err)
	t.Cleanup(func() {
		if _, err := kubectl(context.WithoutCancel(t.Context()), "taint", "node", firstNode, nodeKind+"-"); err != nil {
			t.Error(err)
		}
	})
	_, err = kubectl(t.Context(), "taint", "node", instance, nodeKind+"-")
	check(t, err)
}

// suiteRun is a run of the suite on one backend.
type suiteRun struct {
	*testing.T
	backend  string
	focus    string            // expression for the names of specs; empty: all
	files    map[string]string // of examples, by name
	expected conformance.Expected
}

func newConformance(t *testing.T, backend string) *suiteRun {
	t.Helper()
	r := &suiteRun{T: t, backend: backend, focus: os.Getenv(conformanceVariable), files: map[string]string{}}
	switch r.focus {
	case "":
		t.Skipf("%s is not set; `make cluster-conformance` sets it", conformanceVariable)
	case conformanceAll:
		r.focus = ""
	case conformanceShort:
		r.focus = shortFocus
	}
	root := space{T: t}.root()
	for _, name := range append(r.classes(), r.driver()) {
		text, err := os.ReadFile(filepath.Join(root, "examples", name)) //nolint:gosec // of this repository
		check(t, err)
		r.files[name] = string(text)
	}
	var err error
	r.expected, err = conformance.ExpectedOf(backend)
	check(t, err)
	return r
}

// driver is the example file that describes the driver to the suite.
func (r *suiteRun) driver() string { return "conformance/" + r.backend + ".yaml" }

// classes are the example files with the classes that the driver's file names.
func (r *suiteRun) classes() []string {
	names := []string{r.backend + "/storageclass.yaml", r.backend + "/snapshotclass.yaml"}
	if r.backend == "cinder" {
		names = append(names, "cinder/attributesclass.yaml")
	}
	return names
}

// replace changes the examples to fit this machine. It fails if there is
// nothing to replace.
func (r *suiteRun) replace(old, by string) {
	r.Helper()
	found := false
	for name, text := range r.files {
		found = found || strings.Contains(text, old)
		r.files[name] = strings.ReplaceAll(text, old, by)
	}
	if !found {
		r.Fatalf("no example has %q", old)
	}
}

// run applies the classes, runs the suite and judges it.
func (r *suiteRun) run(options ...string) {
	r.Helper()
	deletedAtEnd(r.T, "storageclass/growvol", "volumesnapshotclass/growvol", "volumeattributesclass/gold")
	for _, class := range r.classes() {
		_, err := in(r.Context(), r.files[class], "kubectl", "apply", "-f", "-")
		check(r.T, err)
	}
	driver := filepath.Join(r.TempDir(), "driver.yaml")
	check(r.T, os.WriteFile(driver, []byte(r.files[r.driver()]), 0o600))
	report := filepath.Join(os.Getenv(clusterVariable), "log", "conformance-"+r.backend)
	begin := time.Now()
	args := append([]string{"run", driver, report}, append(r.selection(), options...)...)
	_, runErr := programWithin(r.Context(), suiteTimeout, "", "suite", args...) // it fails if a spec does, which the report tells
	file, err := os.Open(report + ".json")                                      //nolint:gosec // the rig's
	if err != nil {
		r.Fatalf("the suite has written no report; its log is %s.log: %v, %v", report, err, runErr)
	}
	defer file.Close() //nolint:errcheck // only read from
	found, err := conformance.Read(file)
	check(r.T, err)
	r.judge(found, time.Since(begin))
}

// selection returns ginkgo's options that choose the specs.
func (r *suiteRun) selection() []string {
	options := []string{"--focus=External Storage.*" + r.focus, "--timeout=" + (suiteTimeout - 10*time.Minute).String()}
	for _, e := range r.expected.Excluded {
		options = append(options, "--skip="+e.Match.String())
	}
	return options
}

// judge fails the test for each problem, and writes the results where they are
// wanted.
func (r *suiteRun) judge(found conformance.Report, took time.Duration) {
	r.Helper()
	verdict := conformance.Judge(found, r.expected, r.focus == "")
	for _, problem := range verdict.Problems {
		r.Error(problem)
	}
	r.Logf("after %.0f s:\n%s", took.Seconds(), verdict.Table())
	file := os.Getenv(resultsVariable)
	if file == "" {
		return
	}
	specs := "All specs."
	if r.focus != "" {
		specs = fmt.Sprintf("Only specs that match `%s`.", r.focus)
	}
	text, err := os.ReadFile(file) //nolint:gosec // the user's choice
	check(r.T, err)
	changed, err := conformance.Replace(string(text), "results on "+r.backend, fmt.Sprintf("\n%s\n\n%s\n", specs, verdict.Table()))
	check(r.T, err)
	check(r.T, os.WriteFile(file, []byte(changed), 0o600))
}

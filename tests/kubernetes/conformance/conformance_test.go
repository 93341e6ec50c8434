package conformance_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/tests/kubernetes/conformance"
	"github.com/growvol/growvol/tests/must"
)

// sample is a report in the format of ginkgo.
const sample = `[{
	"SpecialSuiteFailureReasons": [],
	"SpecReports": [
		{"LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"},
		{"ContainerHierarchyTexts": ["[sig-node] Pods"],
		 "LeafNodeType": "It", "LeafNodeText": "should run", "State": "skipped"},
		{"ContainerHierarchyTexts": ["External Storage [Driver: d]", "[Testpattern: Dynamic PV (ext4)] volume-expand"],
		 "LeafNodeType": "It", "LeafNodeText": "should resize volume [Slow]", "State": "passed"},
		{"ContainerHierarchyTexts": ["External Storage [Driver: d]", "[Testpattern: Dynamic PV (ext4)] multiVolume"],
		 "LeafNodeType": "It", "LeafNodeText": "on two nodes", "State": "skipped",
		 "Failure": {"Message": "Driver \"d\" does not support RWX"}},
		{"ContainerHierarchyTexts": ["External Storage [Driver: d]",
			"[Testpattern: Dynamic Snapshot (delete policy)] snapshottable [Feature:X]", "volume snapshot controller", ""],
		 "LeafNodeType": "It", "LeafNodeText": "should restore", "State": "timedout", "Failure": {"Message": "no pod"}},
		{"ContainerHierarchyTexts": ["External Storage [Driver: d]", "[Testpattern: Dynamic PV (default fs)] disruptive"],
		 "LeafNodeType": "It", "LeafNodeText": "kubelet is down [Disruptive]", "State": "skipped"}
	]
}]`

const expected = `
excluded: [{match: '\[Disruptive\]', reason: no SSH}]
failures: [{match: should restore, reason: known}]
skips: [{match: RWX, reason: one node}, {match: never, backends: [other], reason: of another backend}]
`

func read(t *testing.T, report string) conformance.Report {
	t.Helper()
	return must.Value(conformance.ReadReport(strings.NewReader(report)))(t)
}

func parse(t *testing.T, list string) conformance.Expected {
	t.Helper()
	return must.Value(conformance.ParseExpected([]byte(list), "loop"))(t)
}

func TestReadReportParsesSpecs(t *testing.T) {
	specs := read(t, sample).Specs
	want := []conformance.Spec{
		{
			Suite: "disruptive", Pattern: "Dynamic PV (default fs)", Name: "kubelet is down [Disruptive]",
			State: conformance.StateSkipped,
		},
		{
			Suite: "multiVolume", Pattern: "Dynamic PV (ext4)", Name: "on two nodes",
			State: conformance.StateSkipped, Message: `Driver "d" does not support RWX`,
		},
		{
			Suite: "snapshottable", Pattern: "Dynamic Snapshot (delete policy)",
			Name: "volume snapshot controller should restore", State: conformance.StateFailed, Message: "no pod",
		},
		{
			Suite: "volume-expand", Pattern: "Dynamic PV (ext4)", Name: "should resize volume [Slow]",
			State: conformance.StatePassed,
		},
	}
	if !slices.Equal(specs, want) {
		t.Errorf("got %+v\nwant %+v", specs, want)
	}
}

// Each row changes the report or the list, and has the problem that Judge must find
// then, or "" if there is none.
func TestJudgeFindsDifferences(t *testing.T) {
	for name, test := range map[string]struct {
		old, replacement string // in the report
		list             string
		isPart           bool // the run is of a part of the suite
		want             string
	}{
		"all as listed": {list: expected},
		"a failure that is not listed": {
			list:   strings.Replace(expected, "match: should restore", "match: volume-modify", 1),
			isPart: true, want: "should restore: failed: no pod",
		},
		"a listed failure passes": {
			"timedout", "passed", expected, false, "is listed as a failure (known) (next step: remove it",
		},
		"a skip that is not listed": {
			"does not support RWX", "has one node", expected, true,
			`for a reason that is not listed: Driver "d" has one node`,
		},
		"a spec that was not selected":    {"[Disruptive]", "[Slow]", expected, false, "was not selected"},
		"the same in a part of the suite": {"[Disruptive]", "[Slow]", expected, true, ""},
		"a rule that matches nothing": {
			list: strings.Replace(expected, "match: never, backends: [other]", "match: never", 1),
			want: `the rule "never" of skips matches nothing`,
		},
		"no spec runs": {"External Storage", "Storage", "failures: []", true, "no spec was run"},
		"the suite does not start": {
			`"SynchronizedBeforeSuite", "State": "passed"`,
			`"SynchronizedBeforeSuite", "State": "failed", "Failure": {"Message": "no node"}`,
			expected, true, "no node",
		},
		"the suite reaches its timeout": {
			`"SpecialSuiteFailureReasons": []`, `"SpecialSuiteFailureReasons": ["Suite Timeout Elapsed"]`,
			expected, true, "Suite Timeout Elapsed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(sample, test.old) {
				t.Fatalf("the report does not contain %q", test.old)
			}
			report := sample
			if test.old != "" {
				report = strings.ReplaceAll(sample, test.old, test.replacement)
			}
			problems := conformance.Judge(read(t, report), parse(t, test.list), !test.isPart).Problems
			found := slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, test.want) })
			if found != (test.want != "") {
				t.Errorf("got the problems %q, want one with %q", problems, test.want)
			}
		})
	}
}

func TestMarkdownCountsSpecsAndReasons(t *testing.T) {
	got := conformance.Judge(read(t, sample), parse(t, expected), true).Markdown()
	const want = `| specs | passed | failed | skipped |
|---|---|---|---|
| disruptive | 0 | 0 | 1 |
| multiVolume | 0 | 0 | 1 |
| snapshottable | 0 | 1 | 0 |
| volume-expand | 1 | 0 | 0 |
| **all** | **1** | **1** | **2** |

| failed | because |
|---|---|
| 1 | known |

| skipped | because |
|---|---|
| 1 | no SSH |
| 1 | one node |
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestReplaceSection(t *testing.T) {
	const text = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
	got, err := conformance.ReplaceSection(text, "x", "new\n")
	if want := strings.Replace(text, "old", "new", 1); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if got, err := conformance.ReplaceSection(text, "y", "new\n"); err == nil {
		t.Errorf("a missing section: got %q, want an error", got)
	}
}

// The project's list is valid for every backend, and invalid lists are refused.
func TestParseExpectedRefusesInvalidLists(t *testing.T) {
	for _, backend := range []string{"cinder", "loop"} {
		if _, err := conformance.ExpectedOf(backend); err != nil {
			t.Errorf("%s: %v", backend, err)
		}
	}
	for _, invalid := range []string{
		"skips: [{match: x}]", "skips: [{reason: x}]", "skips: [{match: '(', reason: x}]", "skipped: []",
	} {
		if e, err := conformance.ParseExpected([]byte(invalid), "loop"); err == nil {
			t.Errorf("%s: got %+v, want an error", invalid, e)
		}
	}
}

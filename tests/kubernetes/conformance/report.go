// Package conformance judges a run of Kubernetes' own end-to-end suite for
// external storage: which specs passed, failed and were skipped, and whether
// each failure and each skip is one that is listed with its reason.
package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// State is the outcome of a spec.
type State string

// The outcomes of a spec.
const (
	StatePassed  State = "passed"
	StateFailed  State = "failed"
	StateSkipped State = "skipped"
)

// Spec is one test of the suite and what became of it.
type Spec struct {
	Suite   string // "volume-expand"
	Pattern string // "Dynamic PV (ext4)"
	Name    string // "should resize volume when PVC is edited while pod is using it"
	State   State
	Message string // of a failure, or of a spec that skipped itself
}

func (s Spec) String() string { return s.Suite + " [" + s.Pattern + "] " + s.Name }

// Report is what a run has to say.
type Report struct {
	Specs []Spec
	// Troubles are failures outside of the specs: the suite could not start,
	// or ran into its time limit.
	Troubles []string
}

// report is the part of ginkgo's report in JSON that is used here.
type report struct {
	SpecialSuiteFailureReasons []string
	SpecReports                []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		Failure                 struct{ Message string }
	}
}

// external is the text of the outermost container of the specs for a driver.
const external = "External Storage"

// Read reads ginkgo's report in JSON and returns the specs for external
// storage, sorted. The suite's other specs are left out.
func Read(from io.Reader) (Report, error) {
	var suites []report
	if err := json.NewDecoder(from).Decode(&suites); err != nil {
		return Report{}, fmt.Errorf("read ginkgo's report: %w", err)
	}
	var r Report
	for _, suite := range suites {
		r.Troubles = append(r.Troubles, suite.SpecialSuiteFailureReasons...)
		for _, s := range suite.SpecReports {
			state := stateOf(s.State)
			containers := s.ContainerHierarchyTexts
			switch {
			case s.LeafNodeType == "It" && len(containers) > 1 && strings.HasPrefix(containers[0], external):
				spec := newSpec(containers[1:], s.LeafNodeText)
				spec.State, spec.Message = state, strings.TrimSpace(s.Failure.Message)
				r.Specs = append(r.Specs, spec)
			case state == StateFailed:
				r.Troubles = append(r.Troubles, fmt.Sprintf("%s %s: %s", s.LeafNodeType, s.LeafNodeText, s.Failure.Message))
			}
		}
	}
	slices.SortFunc(r.Specs, func(a, b Spec) int { return strings.Compare(a.String(), b.String()) })
	return r, nil
}

// stateOf returns the state of a spec. A spec that did not come to its end has
// failed.
func stateOf(state string) State {
	switch state {
	case "passed":
		return StatePassed
	case "skipped", "pending":
		return StateSkipped
	default:
		return StateFailed
	}
}

// newSpec takes the spec's texts apart:
// "[Testpattern: PATTERN] SUITE [LABEL]...", further containers, NAME.
func newSpec(containers []string, name string) Spec {
	pattern, suite, found := strings.Cut(strings.TrimPrefix(containers[0], "[Testpattern: "), "] ")
	if !found {
		pattern, suite = "", containers[0]
	}
	suite, _, _ = strings.Cut(suite, " [")
	words := append(slices.Clone(containers[1:]), name)
	return Spec{Suite: suite, Pattern: pattern, Name: joinFields(words)}
}

// joinFields joins the words of all texts by single spaces.
func joinFields(texts []string) string {
	return strings.Join(strings.Fields(strings.Join(texts, " ")), " ")
}

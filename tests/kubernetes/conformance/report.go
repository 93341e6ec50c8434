// Package conformance compares a run of Kubernetes' own end-to-end suite for external
// storage with a list of expected results: which specs passed, failed and were skipped,
// and whether the list has a reason for each failure and each skip.
//
// ReadReport reads ginkgo's report, ExpectedOf returns the list, Judge compares them, and
// the Verdict renders the results in Markdown. The command judge does so for a file.
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

// Spec is one test of the suite and its result.
type Spec struct {
	Suite   string // "volume-expand"
	Pattern string // "Dynamic PV (ext4)"
	Name    string // "should resize volume when PVC is edited while pod is using it"
	State   State
	Message string // of a failure, or of a spec that skipped itself
}

func (s Spec) String() string { return s.Suite + " [" + s.Pattern + "] " + s.Name }

// Report is the result of a run.
type Report struct {
	Specs []Spec
	// Failures are failures outside of the specs: the suite did not start, or reached its
	// timeout.
	Failures []string
}

// ginkgoReport is the used part of ginkgo's report in JSON.
type ginkgoReport struct {
	SpecialSuiteFailureReasons []string
	SpecReports                []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		Failure                 struct{ Message string }
	}
}

// externalStorage begins the text of the outermost container of a driver's specs.
const externalStorage = "External Storage"

// ReadReport reads ginkgo's report in JSON and returns the specs for external storage,
// sorted, without the suite's other specs.
func ReadReport(from io.Reader) (Report, error) {
	var suites []ginkgoReport
	if err := json.NewDecoder(from).Decode(&suites); err != nil {
		return Report{}, fmt.Errorf("read ginkgo's report: %w", err)
	}
	var r Report
	for _, suite := range suites {
		r.Failures = append(r.Failures, suite.SpecialSuiteFailureReasons...)
		for _, s := range suite.SpecReports {
			state := parseState(s.State)
			containers := s.ContainerHierarchyTexts
			switch {
			case s.LeafNodeType == "It" && len(containers) > 1 && strings.HasPrefix(containers[0], externalStorage):
				spec := newSpec(containers[1:], s.LeafNodeText)
				spec.State, spec.Message = state, strings.TrimSpace(s.Failure.Message)
				r.Specs = append(r.Specs, spec)
			case state == StateFailed:
				r.Failures = append(r.Failures, fmt.Sprintf("%s %s: %s", s.LeafNodeType, s.LeafNodeText, s.Failure.Message))
			}
		}
	}
	slices.SortFunc(r.Specs, func(a, b Spec) int { return strings.Compare(a.String(), b.String()) })
	return r, nil
}

// parseState returns the state of a spec for ginkgo's. A spec without an end (a timeout,
// an interrupt) has failed.
func parseState(state string) State {
	switch state {
	case "passed":
		return StatePassed
	case "skipped", "pending":
		return StateSkipped
	default:
		return StateFailed
	}
}

// newSpec parses the texts of a spec's containers: the first is "[Testpattern: PATTERN]
// SUITE [LABEL]...", and the others precede the name.
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

package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is the comparison of a run with the expected results.
type Verdict struct {
	// Results are the specs that ran, skipped themselves or are excluded, each with the
	// reason if it did not pass.
	Results []Result
	// Problems are the differences from the list. A run with problems has failed.
	Problems []string
}

// Result is a spec with the listed reason for its state.
type Result struct {
	Spec
	Reason string
}

// Judge compares a run with the expected results. A problem is a failure or a skip that
// is not listed, and a listed failure that passes. If the run is of the complete suite,
// a rule that matches nothing and a spec that was not selected are problems too.
func Judge(r Report, e Expected, isComplete bool) Verdict {
	j := judgment{expected: e, isComplete: isComplete, used: map[string]bool{}}
	j.Problems = append(j.Problems, r.Failures...)
	for _, s := range r.Specs {
		j.judgeSpec(s)
	}
	if !slices.ContainsFunc(j.Results, func(r Result) bool { return r.State != StateSkipped }) {
		j.addProblem("no spec was run")
	}
	if isComplete {
		j.checkUnused("excluded", e.Excluded)
		j.checkUnused("failures", e.Failures)
		j.checkUnused("skips", e.Skips)
	}
	return j.Verdict
}

// maxMessage bounds the quotation of a failure's message in a problem, in bytes. The
// message may contain whole objects; the log of the run has all of it.
const maxMessage = 500

// judgment is a verdict that is not complete yet.
type judgment struct {
	Verdict
	expected   Expected
	isComplete bool
	used       map[string]bool // rules, by list and expression
}

func (j *judgment) addProblem(format string, args ...any) {
	j.Problems = append(j.Problems, fmt.Sprintf(format, args...))
}

// reason returns the reason of the first rule that matches, and marks the rule as used.
func (j *judgment) reason(list string, rules []Rule, text string) string {
	i := findRule(rules, text)
	if i < 0 {
		return ""
	}
	j.used[list+rules[i].Match.String()] = true
	return rules[i].Reason
}

// checkUnused adds a problem for each rule that has matched nothing.
func (j *judgment) checkUnused(list string, rules []Rule) {
	for _, r := range rules {
		if !j.used[list+r.Match.String()] {
			j.addProblem("the rule %q of %s matches nothing (next step: remove it)", r.Match, list)
		}
	}
}

// judgeSpec compares one spec with the rules. A spec that was not selected is no result.
func (j *judgment) judgeSpec(s Spec) {
	var reason string
	known := j.reason("failures", j.expected.Failures, s.String())
	switch s.State {
	case StatePassed:
		if known != "" {
			j.addProblem("%s: passed, but is listed as a failure (%s) (next step: remove it from the list)", s, known)
		}
	case StateFailed:
		if reason = known; reason == "" {
			j.addProblem("%s: failed: %s", s, s.Message[:min(len(s.Message), maxMessage)])
		}
	case StateSkipped:
		if s.Message == "" { // skipped by the options of the run
			if reason = j.reason("excluded", j.expected.Excluded, s.String()); reason == "" {
				if j.isComplete {
					j.addProblem("%s: was not selected", s)
				}
				return
			}
			break
		}
		if reason = j.reason("skips", j.expected.Skips, s.Message); reason == "" {
			j.addProblem("%s: skipped itself for a reason that is not listed: %s",
				s, strings.ReplaceAll(s.Message, "\n", " "))
		}
	}
	j.Results = append(j.Results, Result{s, reason})
}

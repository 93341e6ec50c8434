package conformance

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is a run compared with what is expected of it.
type Verdict struct {
	// Results are the specs that ran or skipped themselves, and those that are
	// excluded, each with the reason if it did not pass.
	Results []Result
	// Problems are what makes the run red.
	Problems []string
}

// Result is a spec with the listed reason for its state.
type Result struct {
	Spec
	Reason string
}

// Judge compares a run with what is expected. A problem is each failure and
// each skip that is not listed, and each listed failure that has passed. If
// the whole suite ran, a rule that matches nothing is a problem too, and so is
// a spec that was not selected.
func Judge(r Report, e Expected, whole bool) Verdict {
	j := judge{expected: e, whole: whole, used: map[string]bool{}}
	j.Problems = append(j.Problems, r.Troubles...)
	for _, s := range r.Specs {
		j.spec(s)
	}
	if !slices.ContainsFunc(j.Results, func(r Result) bool { return r.State != StateSkipped }) {
		j.problem("no spec has run")
	}
	if whole {
		j.unused("excluded", e.Excluded)
		j.unused("failures", e.Failures)
		j.unused("skips", e.Skips)
	}
	return j.Verdict
}

// maxMessage is how many bytes a problem quotes of a failure's message, which may
// have whole objects in it. The log of the run has the rest.
const maxMessage = 500

// judge is a verdict in the making.
type judge struct {
	Verdict
	expected Expected
	whole    bool
	used     map[string]bool // rules, by list and expression
}

func (j *judge) problem(format string, args ...any) {
	j.Problems = append(j.Problems, fmt.Sprintf(format, args...))
}

// reason returns the reason of the first rule that matches, and marks the rule
// as used.
func (j *judge) reason(list string, rules []Rule, text string) string {
	i := find(rules, text)
	if i < 0 {
		return ""
	}
	j.used[list+rules[i].Match.String()] = true
	return rules[i].Reason
}

func (j *judge) unused(list string, rules []Rule) {
	for _, r := range rules {
		if !j.used[list+r.Match.String()] {
			j.problem("the rule %q of %s matches nothing: remove it", r.Match, list)
		}
	}
}

// spec judges one spec.
func (j *judge) spec(s Spec) {
	var reason string
	known := j.reason("failures", j.expected.Failures, s.String())
	switch s.State {
	case StatePassed:
		if known != "" {
			j.problem("%s: passed, and is listed as a failure (%s): remove it from the list", s, known)
		}
	case StateFailed:
		if reason = known; reason == "" {
			j.problem("%s: failed: %s", s, s.Message[:min(len(s.Message), maxMessage)])
		}
	case StateSkipped:
		if s.Message == "" { // by the options of the run
			if reason = j.reason("excluded", j.expected.Excluded, s.String()); reason == "" {
				if j.whole {
					j.problem("%s: was not selected", s)
				}
				return
			}
			break
		}
		if reason = j.reason("skips", j.expected.Skips, s.Message); reason == "" {
			j.problem("%s: skipped itself, for a reason that is not listed: %s", s, strings.ReplaceAll(s.Message, "\n", " "))
		}
	}
	j.Results = append(j.Results, Result{s, reason})
}

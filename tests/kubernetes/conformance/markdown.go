package conformance

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Markdown returns the verdict in Markdown: a table with a row for each suite, and
// tables with the reasons of failures and skips.
func (v Verdict) Markdown() string {
	suites := map[string]map[State]int{}
	reasons := map[State]map[string]int{StateFailed: {}, StateSkipped: {}}
	for _, r := range v.Results {
		if suites[r.Suite] == nil {
			suites[r.Suite] = map[State]int{}
		}
		suites[r.Suite][r.State]++
		if r.State != StatePassed {
			first, _, _ := strings.Cut(r.Message, "\n")
			reasons[r.State][cmp.Or(r.Reason, "not listed: "+first)]++
		}
	}
	var b strings.Builder
	b.WriteString("| specs | passed | failed | skipped |\n|---|---|---|---|\n")
	total := map[State]int{}
	for _, suite := range slices.Sorted(maps.Keys(suites)) {
		n := suites[suite]
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", suite, n[StatePassed], n[StateFailed], n[StateSkipped])
		for state, count := range n {
			total[state] += count
		}
	}
	fmt.Fprintf(&b, "| **all** | **%d** | **%d** | **%d** |\n",
		total[StatePassed], total[StateFailed], total[StateSkipped])
	for _, state := range []State{StateFailed, StateSkipped} {
		writeReasons(&b, state, reasons[state])
	}
	return b.String()
}

// writeReasons writes a table of reasons, the most frequent first.
func writeReasons(b *strings.Builder, state State, reasons map[string]int) {
	if len(reasons) == 0 {
		return
	}
	fmt.Fprintf(b, "\n| %s | because |\n|---|---|\n", state)
	order := slices.SortedFunc(maps.Keys(reasons), func(x, y string) int {
		return cmp.Or(cmp.Compare(reasons[y], reasons[x]), cmp.Compare(x, y))
	})
	for _, reason := range order {
		fmt.Fprintf(b, "| %d | %s |\n", reasons[reason], reason)
	}
}

// ReplaceSection replaces the part of a text between the comments <!-- NAME --> and
// <!-- end of NAME -->. It fails if the text does not have both.
func ReplaceSection(text, name, content string) (string, error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->"
	before, rest, found := strings.Cut(text, begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return "", fmt.Errorf("the text has no section %q: it lacks the comments %s and %s",
			name, strings.TrimSpace(begin), end)
	}
	return before + begin + content + end + after, nil
}

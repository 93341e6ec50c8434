// Package doctor finds what is wrong in a cluster before a growth fails: claims whose filesystem
// is smaller than they say, of any CSI driver, and faults of an installation of growvol.
//
// report.go has the model, claims.go judges the claims, and checks.go lists the checks of an
// installation, which have a file for each subject.
package doctor

import (
	"fmt"
	"slices"
	"strings"
)

// Verdict is the result of a check.
type Verdict string

// The verdicts. Only fail is a fault; warn needs a person to judge, or says what was not checked
// for lack of a right; unknown is what nobody has reported.
const (
	VerdictOK      Verdict = "ok"
	VerdictWarn    Verdict = "warn"
	VerdictUnknown Verdict = "unknown"
	VerdictFail    Verdict = "fail"
)

// Check is the result of one check.
type Check struct {
	Verdict Verdict `json:"verdict"`
	// Name names what was checked, such as "CSIDriver".
	Name string `json:"name"`
	Text string `json:"text"`
	Next string `json:"next,omitempty"` // the next step; empty for ok
}

// HasFailed reports whether one of the checks fails.
func HasFailed(checks []Check) bool {
	return slices.ContainsFunc(checks, func(c Check) bool { return c.Verdict == VerdictFail })
}

func ok(name, text string) Check { return Check{Verdict: VerdictOK, Name: name, Text: text} }

func warn(name, text, next string) Check { return Check{VerdictWarn, name, text, next} }

func fail(name, text, next string) Check { return Check{VerdictFail, name, text, next} }

// unread is the check of something that could not be read. The error names the missing right.
func unread(name string, err error) Check { return warn(name, "not checked: "+err.Error(), "") }

// maxNames is the number of nodes, pods or classes that a check names.
const maxNames = 5

// joinNames joins the names, and the number of those above maxNames.
func joinNames(names []string) string {
	if len(names) > maxNames {
		return strings.Join(names[:maxNames], ", ") + fmt.Sprintf(" and %d more", len(names)-maxNames)
	}
	return strings.Join(names, ", ")
}

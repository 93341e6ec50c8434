package table

import "io"

// Check is a row of `kubectl growvol doctor`, whose table this file prints.
type Check struct {
	Verdict string // ok, warn, unknown or fail
	Name    string
	Text    string
	Next    string // the next step; may be empty
}

// PrintChecks prints a row for each check, and its next step below it.
func PrintChecks(w io.Writer, checks []Check, o Options) error {
	colors := map[string]string{"ok": colorGreen, "warn": colorYellow, "unknown": colorYellow, "fail": colorRed}
	var rows [][]cell
	for _, c := range checks {
		rows = append(rows, []cell{{c.Verdict, colors[c.Verdict]}, {text: c.Name}, {text: c.Text}})
		if c.Next != "" {
			rows = append(rows, texts("", "", "next step: "+c.Next))
		}
	}
	return printTable(w, rows, o.Color)
}

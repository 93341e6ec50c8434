package table

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/claim"
)

// PrintClaim prints one claim: its layers, conditions, events, and the sentence.
func PrintClaim(w io.Writer, s *claim.Status, o Options) error {
	if _, err := fmt.Fprintln(w, headline(s)); err != nil {
		return err
	}
	rows := [][]cell{texts("LAYER", "SIZE", "STATE", "READ FROM", "AGE")}
	var notes []string
	for _, l := range s.Layers {
		source := l.Source
		if l.Problem != "" {
			source += ": not read"
			if note := l.Source + ": " + l.Problem; !slices.Contains(notes, note) {
				notes = append(notes, note)
			}
		}
		rows = append(rows, []cell{
			{text: string(l.Name)},
			layerSize(l),
			{dash(string(l.State)), stateColor(l.State)},
			{text: source},
			{text: age(o.Now, l.ReadAt)},
		})
	}
	if err := printSection(w, "", rows, o); err != nil {
		return err
	}
	notes = append(notes, s.Problems...)
	sections := []struct {
		title string
		rows  [][]cell
	}{
		{"NOT READ", noteRows(notes)}, {"CONDITIONS", conditionRows(s, o)}, {"EVENTS", eventRows(s, o)},
	}
	for _, section := range sections {
		if err := printSection(w, section.title, section.rows, o); err != nil {
			return err
		}
	}
	verdict := severityCell(s.Diagnosis.Severity)
	return printTable(w, [][]cell{{}, {{text: s.Diagnosis.Sentence(o.Now), color: verdict.color}}}, o.Color)
}

// headline names the claim and what is around it.
func headline(s *claim.Status) string {
	parts := []string{s.Namespace + "/" + s.Name}
	if s.Phase != "Bound" {
		parts = append(parts, s.Phase)
	}
	for _, p := range s.Pods {
		text := "pod " + p.Name
		if p.Node != "" {
			text += " on " + p.Node
		}
		parts = append(parts, text)
	}
	if s.Class != "" {
		parts = append(parts, "class "+s.Class)
	}
	if s.Driver != "" {
		parts = append(parts, "driver "+s.Driver, "volume "+s.Handle)
	}
	return strings.Join(parts, ", ")
}

// printSection prints a title and rows below it, after an empty line, if there are rows.
func printSection(w io.Writer, title string, rows [][]cell, o Options) error {
	if len(rows) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if title != "" {
		if _, err := fmt.Fprintln(w, title); err != nil {
			return err
		}
	}
	return printTable(w, rows, o.Color)
}

func noteRows(notes []string) [][]cell {
	var rows [][]cell
	for _, n := range notes {
		rows = append(rows, texts("  "+n))
	}
	return rows
}

func conditionRows(s *claim.Status, o Options) [][]cell {
	var rows [][]cell
	for _, c := range s.Conditions {
		rows = append(rows, texts("  "+c.Type, age(o.Now, c.Since), oneLine(c.Message)))
	}
	return rows
}

func eventRows(s *claim.Status, o Options) [][]cell {
	var rows [][]cell
	for _, e := range s.Events {
		last := age(o.Now, e.Last)
		if e.Count > 1 {
			last += fmt.Sprintf(" (x%d)", e.Count)
		}
		rows = append(rows, texts("  "+last, e.Object, e.Reason, oneLine(e.Message)))
	}
	return rows
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

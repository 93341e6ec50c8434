// Package table prints the status of claims for people: one claim as its layers, several as rows.
package table

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/volume"
)

// Options say how to print.
type Options struct {
	Now       time.Time
	Color     bool // with the escape sequences of a terminal
	Wide      bool // with all columns, and texts in full
	Namespace bool // with the column of the namespace
	NoHeaders bool
}

// maxProblem is the number of characters of a problem in a row that is not wide.
const maxProblem = 70

// cell is a text of a table with its color.
type cell struct {
	text  string
	color string // a parameter of the escape sequence SGR; empty: none
}

// The parameters of the escape sequence SGR.
const (
	colorRed    = "31"
	colorGreen  = "32"
	colorYellow = "33"
	colorGray   = "90"
)

// printTable prints rows with aligned columns.
func printTable(w io.Writer, rows [][]cell, color bool) error {
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			text := c.text
			if c.color != "" && color {
				text = "\x1b[" + c.color + "m" + text + "\x1b[0m"
			}
			line.WriteString(text)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+3))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// texts returns cells without a color.
func texts(all ...string) []cell {
	cells := make([]cell, len(all))
	for i, text := range all {
		cells[i] = cell{text: text}
	}
	return cells
}

// PrintRows prints a row for each claim, in their order.
func PrintRows(w io.Writer, statuses []claim.Status, o Options) error {
	var rows [][]cell
	if !o.NoHeaders {
		header := texts("NAME", "REQUEST", "CLAIM", "FILESYSTEM", "USED", "STATE")
		if o.Wide {
			header = append(header, texts("NODE", "CLASS", "DRIVER", "PERSISTENTVOLUME")...)
		}
		header = append(header, cell{text: "PROBLEM"})
		if o.Namespace {
			header = append(texts("NAMESPACE"), header...)
		}
		rows = append(rows, header)
	}
	for i := range statuses {
		rows = append(rows, rowOf(&statuses[i], o))
	}
	return printTable(w, rows, o.Color)
}

func rowOf(s *claim.Status, o Options) []cell {
	used := "?"
	if s.Usage != nil {
		used = strconv.Itoa(s.Usage.UsedPercent) + "%"
	} else if s.Layer(claim.LayerFilesystem).State == claim.StateAbsent {
		used = "–"
	}
	row := []cell{
		{text: s.Name},
		{text: sizeText(s.Layer(claim.LayerRequest))},
		{text: sizeText(s.Layer(claim.LayerClaim))},
		layerSize(s.Layer(claim.LayerFilesystem)),
		{text: used, color: usageColor(s.Usage)},
		severityCell(s.Diagnosis.Severity),
	}
	if o.Wide {
		pod, _ := s.RunningPod()
		row = append(row, texts(dash(pod.Node), dash(s.Class), dash(s.Driver), dash(s.Volume))...)
	}
	row = append(row, cell{text: problemText(s, o)})
	if o.Namespace {
		row = append(texts(s.Namespace), row...)
	}
	return row
}

func dash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

// problemText returns the problem of a row: nothing for a claim without one.
func problemText(s *claim.Status, o Options) string {
	d := s.Diagnosis
	switch d.Severity {
	case claim.SeverityNone:
		return "–"
	case claim.SeverityUnknown:
		d.Subject, d.Problem = "", s.Layer(claim.LayerFilesystem).Problem
	case claim.SeverityWaits, claim.SeverityStuck:
	}
	if !o.Wide {
		d.Next = ""
	}
	text := d.Sentence(o.Now)
	if !o.Wide && utf8.RuneCountInString(text) > maxProblem {
		text = string([]rune(text)[:maxProblem-1]) + "…"
	}
	return text
}

func severityCell(s claim.Severity) cell {
	switch s {
	case claim.SeverityStuck:
		return cell{"stuck", colorRed}
	case claim.SeverityWaits:
		return cell{"waits", colorYellow}
	case claim.SeverityUnknown:
		return cell{"unknown", colorGray}
	case claim.SeverityNone:
	}
	return cell{"ok", colorGreen}
}

// The shares of a filesystem in percent above which its usage has a color.
const (
	usageHigh = 80
	usageFull = 95
)

func usageColor(u *claim.Usage) string {
	switch {
	case u == nil:
		return ""
	case u.UsedPercent >= usageFull:
		return colorRed
	case u.UsedPercent >= usageHigh:
		return colorYellow
	}
	return ""
}

func layerSize(l claim.Layer) cell { return cell{sizeText(l), stateColor(l.State)} }

// sizeText returns the size of a layer, "?" if it is unknown, and "–" without such a layer.
func sizeText(l claim.Layer) string {
	switch l.State {
	case claim.StateUnknown:
		return "?"
	case claim.StateAbsent:
		return "–"
	default:
		return ShortSize(l.Size)
	}
}

func stateColor(s claim.LayerState) string {
	switch s {
	case claim.StateShort, claim.StateFailed:
		return colorRed
	case claim.StateWaits:
		return colorYellow
	case claim.StateUnknown:
		return colorGray
	default:
		return ""
	}
}

// ShortSize formats a size with one decimal at most, rounded down: a filesystem that is smaller
// than its volume never has the same text if they differ by a tenth of the unit.
func ShortSize(s volume.Size) string {
	for _, u := range []struct {
		size volume.Size
		name string
	}{{volume.TiB, "TiB"}, {volume.GiB, "GiB"}, {volume.MiB, "MiB"}, {volume.KiB, "KiB"}} {
		if s < u.size {
			continue
		}
		whole, tenth := s/u.size, s%u.size*10/u.size
		if tenth == 0 || whole >= 100 {
			return fmt.Sprintf("%d %s", whole, u.name)
		}
		return fmt.Sprintf("%d.%d %s", whole, tenth, u.name)
	}
	return fmt.Sprintf("%d B", s)
}

// age returns the age of a reading, or nothing if there is none.
func age(now, at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return duration.HumanDuration(max(0, now.Sub(at)))
}

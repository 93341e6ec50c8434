package recording

import (
	"fmt"
	"image/color"
	"slices"
	"strings"
	"time"

	uv "github.com/charmbracelet/ultraviolet"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/vt"
)

// minFrame is the shortest time that a screen is shown. What is printed within it is shown at once:
// no eye sees the difference, and the picture stays small.
const minFrame = 30 * time.Millisecond

// screen is what the terminal shows from a time on.
type screen struct {
	from   time.Duration
	rows   []string // the content of each row, as formatted runs, see run
	lines  [][]run
	cursor position
}

type position struct{ column, row int }

// run is a text of one color in a row.
type run struct {
	column, width int
	text          string
	color         string // #rrggbb; empty: the terminal's own
	isBold        bool
}

// screens plays the cast on an emulated terminal. The error says what the terminal has shown that
// cannot be drawn.
func (c Cast) screens() ([]screen, error) {
	terminal := vt.NewEmulator(c.Columns, c.Rows)
	defer func() { _ = terminal.Close() }()
	var screens []screen
	outputs := c.withShortPauses()
	for i, o := range outputs {
		if _, err := terminal.WriteString(o.Text); err != nil {
			return nil, fmt.Errorf("emulate the terminal: %w", err)
		}
		if i+1 < len(outputs) && outputs[i+1].At-o.At < minFrame {
			continue
		}
		s, err := readScreen(terminal)
		if err != nil {
			return nil, fmt.Errorf("the screen after %s: %w", o.At, err)
		}
		s.from = o.At
		screens = append(screens, s)
	}
	if n := terminal.ScrollbackLen(); n > 0 {
		return nil, fmt.Errorf("%d lines have left the screen of %d (next step: record with more rows)", n, c.Rows)
	}
	return screens, nil
}

func readScreen(t *vt.Emulator) (screen, error) {
	at := t.CursorPosition()
	s := screen{cursor: position{at.X, at.Y}}
	for row := range t.Height() {
		var line []run
		for column := range t.Width() {
			cell := t.CellAt(column, row)
			if cell == nil || strings.TrimSpace(cell.Content) == "" && cell.Style.IsZero() {
				continue
			}
			r, err := newRun(column, cell)
			if err != nil {
				return screen{}, err
			}
			line = appendRun(line, r)
		}
		s.lines = append(s.lines, line)
		s.rows = append(s.rows, fmt.Sprint(line))
	}
	return s, nil
}

// appendRun adds a character, to the last run if that has the same style and ends there or one
// blank before.
func appendRun(line []run, r run) []run {
	if len(line) > 0 {
		last := &line[len(line)-1]
		gap := r.column - last.column - last.width
		if last.color == r.color && last.isBold == r.isBold && gap <= 1 {
			last.text += strings.Repeat(" ", gap) + r.text
			last.width += gap + r.width
			return line
		}
	}
	return append(line, r)
}

// newRun returns the cell as a run. The error says which style cannot be drawn.
func newRun(column int, cell *uv.Cell) (run, error) {
	style := cell.Style
	if style.Bg != nil || style.Underline != 0 || style.Attrs&^uv.AttrBold != 0 {
		return run{}, fmt.Errorf("column %d has the style %q, and only colors and bold text are drawn",
			column, style.String())
	}
	return run{
		column: column, width: max(1, cell.Width), text: cell.Content, color: colorOf(style.Fg),
		isBold: style.Attrs&uv.AttrBold != 0,
	}, nil
}

// colorOf returns the color as #rrggbb, or "" for that of the terminal. The 16 colors of a terminal
// are those of a theme that is readable on background.
func colorOf(c color.Color) string {
	if c == nil {
		return ""
	}
	if basic, ok := c.(ansi.BasicColor); ok {
		return [...]string{
			"#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4",
			"#8b949e", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff",
		}[basic%16]
	}
	r, g, b, _ := c.RGBA()
	return fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8)
}

// Text returns the lines of the last screen, without spaces at their ends.
func (c Cast) Text() (string, error) {
	screens, err := c.screens()
	if err != nil || len(screens) == 0 {
		return "", err
	}
	var lines []string
	for _, line := range screens[len(screens)-1].lines {
		lines = append(lines, textOf(line))
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n"), nil
}

func textOf(line []run) string {
	var b strings.Builder
	end := 0
	for _, r := range line {
		b.WriteString(strings.Repeat(" ", r.column-end) + r.text)
		end = r.column + r.width
	}
	return b.String()
}

// span is a line that stays the same for a time.
type span struct {
	row      int
	line     []run
	from, to time.Duration
	isLast   bool // it stays to the end
}

// spans returns what each row shows, in the order of time.
func spans(screens []screen) []span {
	var all []span
	open := map[int]int{} // by row, the index of the span that the row shows
	for i, s := range screens {
		for row := range s.lines {
			if i > 0 && s.rows[row] == screens[i-1].rows[row] {
				continue
			}
			if index, found := open[row]; found {
				all[index].to, all[index].isLast = s.from, false
				delete(open, row)
			}
			if len(s.lines[row]) > 0 {
				open[row] = len(all)
				all = append(all, span{row: row, line: slices.Clone(s.lines[row]), from: s.from, isLast: true})
			}
		}
	}
	return all
}

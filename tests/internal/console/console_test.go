package console

import (
	"fmt"
	"strings"
	"testing"
)

func TestConsoleNoticesLinesOfThePattern(t *testing.T) {
	for line, want := range map[string]bool{
		"[   12.100000] kernel BUG at fs/ext4/resize.c:1520!":    true,
		"[    2.000000] a driver reports: kernel BUG at a place": false,
	} {
		var all strings.Builder
		c := New(&all, `^(\[[ 0-9.]+\] ?)?kernel BUG at `)
		// In pieces, as a pipe delivers them.
		for _, part := range []string{line[:10], line[10:] + "\r", "\nnext"} {
			_, _ = fmt.Fprint(c, part)
		}
		if got := c.Defect(); (got == line) != want || (got == "") == want {
			t.Errorf("%q: got the defect %q, want one: %t", line, got, want)
		}
		select {
		case <-c.Failed():
			if !want {
				t.Errorf("%q: Failed is closed", line)
			}
		default:
			if want {
				t.Errorf("%q: Failed is open", line)
			}
		}
		if want := line + "\nnext"; c.Tail() != want {
			t.Errorf("got the tail %q, want %q", c.Tail(), want)
		}
		if want := line + "\r\nnext"; all.String() != want {
			t.Errorf("got the copy %q, want %q", all.String(), want)
		}
	}
}

func TestConsoleKeepsTheFirstDefect(t *testing.T) {
	c := New(nil, "^BUG")
	_, _ = fmt.Fprint(c, "BUG: 1\nBUG: 2\n")
	if got := c.Defect(); got != "BUG: 1" {
		t.Errorf("got the defect %q, want the first", got)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	c := New(nil, "defect")
	for i := range 10 * maxLines {
		_, _ = fmt.Fprintln(c, i)
	}
	lines := strings.Split(c.Tail(), "\n")
	if first := fmt.Sprint(9 * maxLines); lines[0] != first || len(lines) != maxLines+1 {
		t.Errorf("got %d lines, the first %q; want %d, the first %q", len(lines), lines[0], maxLines+1, first)
	}
}

// Package recording records what programs print on a terminal, and draws the recording as an SVG
// that moves. It makes the picture of `kubectl growvol expand` in the README.
//
// terminal.go runs a shell on a pseudo terminal, cast.go stores what it prints, screen.go turns
// that into screens, and svg.go draws these.
package recording

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"
)

// Cast is what a terminal has shown. It is stored as asciicast v2, the format of asciinema
// (https://docs.asciinema.org/manual/asciicast/v2/).
type Cast struct {
	Columns, Rows int
	// MaxPause is how long a pause is shown at most; zero: as long as it was.
	MaxPause time.Duration
	Outputs  []Output
}

// Output is a text that was printed at once.
type Output struct {
	At   time.Duration // since the start
	Text string        // with the escape sequences
}

// header is the first line of the format.
type header struct {
	Version       int     `json:"version"`
	Width         int     `json:"width"`
	Height        int     `json:"height"`
	IdleTimeLimit float64 `json:"idle_time_limit,omitempty"` // in seconds
}

// Write stores the cast.
func (c Cast) Write(w io.Writer) error {
	encode := json.NewEncoder(w)
	encode.SetEscapeHTML(false)
	err := encode.Encode(header{Version: 2, Width: c.Columns, Height: c.Rows, IdleTimeLimit: c.MaxPause.Seconds()})
	for _, o := range c.Outputs {
		if err != nil {
			break
		}
		milliseconds := math.Round(float64(o.At) / float64(time.Millisecond))
		err = encode.Encode([]any{milliseconds / 1000, "o", o.Text})
	}
	if err != nil {
		return fmt.Errorf("write the cast: %w", err)
	}
	return nil
}

// Read reads a cast that Write has stored.
func Read(r io.Reader) (Cast, error) {
	lines := bufio.NewScanner(r)
	var h header
	if !lines.Scan() {
		return Cast{}, fmt.Errorf("read the cast: no header (%w)", cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
	}
	if err := json.Unmarshal(lines.Bytes(), &h); err != nil {
		return Cast{}, fmt.Errorf("read the cast's header: %w", err)
	}
	if h.Version != 2 || h.Width <= 0 || h.Height <= 0 {
		return Cast{}, fmt.Errorf("read the cast: got version %d and %d × %d characters, want version 2 and a size",
			h.Version, h.Width, h.Height)
	}
	c := Cast{Columns: h.Width, Rows: h.Height, MaxPause: seconds(h.IdleTimeLimit)}
	for lines.Scan() {
		var at float64
		var kind, text string
		if err := json.Unmarshal(lines.Bytes(), &[]any{&at, &kind, &text}); err != nil {
			return Cast{}, fmt.Errorf("read the cast: %w: %s", err, lines.Text())
		}
		if kind == "o" {
			c.Outputs = append(c.Outputs, Output{At: seconds(at), Text: text})
		}
	}
	if err := lines.Err(); err != nil {
		return Cast{}, fmt.Errorf("read the cast: %w", err)
	}
	return c, nil
}

func seconds(s float64) time.Duration {
	return time.Duration(math.Round(s*1000)) * time.Millisecond
}

// withShortPauses returns the outputs with no pause longer than MaxPause between them.
func (c Cast) withShortPauses() []Output {
	var short []Output
	var before, cut time.Duration
	for _, o := range c.Outputs {
		if pause := o.At - before; c.MaxPause > 0 && pause > c.MaxPause {
			cut += pause - c.MaxPause
		}
		before = o.At
		short = append(short, Output{At: o.At - cut, Text: o.Text})
	}
	return short
}

// Package console follows what a test guest prints on its console: it keeps the end for
// error messages and notices when the guest's kernel reports a defect of its own. The
// User-Mode Linux guests (tests/guest) and the QEMU machines (tests/vm) share it.
package console

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
)

// maxLines is the number of lines that Tail returns at most, besides an unfinished one.
const maxLines = 60

// Console is the writer that a guest's console is connected to.
type Console struct {
	copyTo  io.Writer // may be nil
	pattern *regexp.Regexp
	failed  chan struct{} // closed when defect is set

	mu         sync.Mutex
	unfinished []byte // the line that has no end yet
	last       []string
	defect     string
}

// New returns a console that copies all it gets to copyTo, unless that is nil. A line
// that matches the pattern is a defect.
func New(copyTo io.Writer, pattern string) *Console {
	return &Console{copyTo: copyTo, pattern: regexp.MustCompile(pattern), failed: make(chan struct{})}
}

// Write never fails: an error of the copy must not stop the guest.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.copyTo != nil {
		_, _ = c.copyTo.Write(p)
	}
	c.unfinished = append(c.unfinished, p...)
	for {
		line, rest, found := bytes.Cut(c.unfinished, []byte("\n"))
		if !found {
			return len(p), nil
		}
		c.add(strings.TrimRight(string(line), "\r"))
		c.unfinished = rest
	}
}

func (c *Console) add(line string) {
	if c.defect == "" && c.pattern.MatchString(line) {
		c.defect = line
		close(c.failed)
	}
	c.last = append(c.last, line)
	c.last = c.last[max(0, len(c.last)-maxLines):]
}

// Defect returns the first line that reports a defect, or "".
func (c *Console) Defect() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.defect
}

// Failed returns a channel that is closed at the first defect.
func (c *Console) Failed() <-chan struct{} { return c.failed }

// Tail returns the last lines, the unfinished one included.
func (c *Console) Tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(append(c.last[:len(c.last):len(c.last)], string(c.unfinished)), "\n")
}

package guest

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
)

// console takes the guest kernel's log, keeps its end and notices defects.
type console struct {
	mu      sync.Mutex
	also    io.Writer // may be nil
	pattern *regexp.Regexp
	partial []byte
	last    []string // at most consoleLines
	found   []string
}

const consoleLines = 60

// defectPattern matches what the kernel logs about itself only when something
// in it is wrong: never a mere complaint about a disk or a filesystem image.
const defectPattern = `^(\[[ 0-9.]+\] ?)?(BUG: |kernel BUG at |WARNING: |Oops: |Kernel panic|INFO: task .* blocked|UBSAN: |general protection fault)`

func newConsole(also io.Writer) *console {
	return &console{also: also, pattern: regexp.MustCompile(defectPattern)}
}

// Write never fails: what happens to the copy must not stop the guest.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.also != nil {
		_, _ = c.also.Write(p)
	}
	c.partial = append(c.partial, p...)
	for {
		line, rest, whole := bytes.Cut(c.partial, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		c.add(strings.TrimRight(string(line), "\r"))
		c.partial = rest
	}
}

func (c *console) add(line string) {
	if c.pattern.MatchString(line) {
		c.found = append(c.found, line)
	}
	c.last = append(c.last, line)
	if extra := len(c.last) - consoleLines; extra > 0 {
		c.last = c.last[extra:]
	}
}

// defects returns the lines that tell of a defect of the kernel.
func (c *console) defects() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.found
}

// tail returns the last lines.
func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(append(c.last[:len(c.last):len(c.last)], string(c.partial)), "\n")
}

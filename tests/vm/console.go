package vm

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
)

// consoleLines is how much of the console's end is kept for messages.
const consoleLines = 60

// defectPattern matches what a kernel logs only when something in it is wrong.
const defectPattern = `^(\[[ 0-9.]+\] ?)?(BUG: |kernel BUG at |Oops: |Kernel panic|general protection fault|GROWVOL-GUEST-FAILED)`

// console takes what the guest prints, keeps its end and notices when it is up
// and when its kernel is not sound.
type console struct {
	mu      sync.Mutex
	also    io.Writer // may be nil
	pattern *regexp.Regexp
	partial []byte
	last    []string
	defect  string
	failed  chan struct{} // closed when defect is set
}

func newConsole(also io.Writer) *console {
	return &console{also: also, pattern: regexp.MustCompile(defectPattern), failed: make(chan struct{})}
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
	if c.defect == "" && c.pattern.MatchString(line) {
		c.defect = line
		close(c.failed)
	}
	c.last = append(c.last, line)
	c.last = c.last[max(0, len(c.last)-consoleLines):]
}

// tail returns the last lines.
func (c *console) tail() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.last, "\n") + "\n" + string(c.partial)
}

// defectLine returns the first line that tells of a defect, or "".
func (c *console) defectLine() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.defect
}

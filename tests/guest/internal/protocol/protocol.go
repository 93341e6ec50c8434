// Package protocol defines what package guest and the guest's init exchange: a Task
// for init (a file on the root filesystem) and Reports from init (one JSON object a
// line, on a serial line).
package protocol

import "net/netip"

// Paths in the guest.
const (
	// TaskFile is the Task, encoded as JSON.
	TaskFile = "/guest.json"
	// ModulesDir is a directory with lib/modules/RELEASE, as modprobe -d expects it.
	ModulesDir = "/guest/modules"
	// ModprobePath is the program that loads the guest kernel's modules: the init
	// program under another name.
	ModprobePath = "/guest/bin/modprobe"
)

// The serial lines, in the order of their numbers.
const (
	StdoutLine = "/dev/ttyS0"
	StderrLine = "/dev/ttyS1"
	StatusLine = "/dev/ttyS2" // for Reports
)

// NetworkDevice is the name of the guest's network interface.
const NetworkDevice = "vec0"

// Task is one command to run in a guest, and what the guest must have for it.
type Task struct {
	Mounts  []Mount
	Modules []string // kernel modules to load
	Path    string   // of the command
	Args    []string // without argv[0]
	Env     []string // the complete environment
	Dir     string
	Network netip.Prefix // address of NetworkDevice; the zero value: the guest has none
}

// Mount is a directory of the machine that the guest sees.
type Mount struct {
	Host, Guest string // paths on the machine and in the guest
	Writable    bool
}

// Event is the kind of a Report.
type Event string

// The events, in the order in which they happen. The last three are final.
const (
	EventStarted  Event = "started"
	EventExited   Event = "exited"
	EventSignaled Event = "signaled"
	EventFailed   Event = "failed"
)

// Report is one event of the command.
type Report struct {
	Event   Event
	Code    int    // exit code of EventExited, number of the signal of EventSignaled
	Message string // of EventFailed
}

// IsFinal reports whether no report follows this one.
func (r Report) IsFinal() bool { return r.Event != EventStarted }

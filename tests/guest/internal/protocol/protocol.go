// Package protocol is what the harness and the guest's init say to each other:
// one Spec on the way in (a file on the root filesystem), a stream of Reports
// on the way out (one JSON object a line on a serial line).
package protocol

// Where things are inside the guest.
const (
	// File is the Spec, encoded as JSON.
	File = "/guest.json"
	// Modules is a directory with lib/modules/<release>, as modprobe -d wants
	// it.
	Modules = "/guest/modules"
	// Modprobe loads the guest kernel's modules. It is the init program under
	// another name.
	Modprobe = "/guest/bin/modprobe"
)

// The serial lines, in the order of their numbers.
const (
	Stdout = "/dev/ttyS0"
	Stderr = "/dev/ttyS1"
	Status = "/dev/ttyS2"
)

// Spec is one run of one command in a guest.
type Spec struct {
	Mounts  []Mount
	Modules []string
	Path    string
	Args    []string // without argv[0]
	Env     []string // complete
	Dir     string
}

// Mount makes a directory of the host visible.
type Mount struct {
	Host, Guest string
	Writable    bool
}

// Event is the kind of a Report.
type Event string

// The events, in the order they can happen. The last three are final.
const (
	Started  Event = "started"
	Exited   Event = "exited"
	Signaled Event = "signaled"
	Failed   Event = "failed"
)

// Report is one event in the life of the command.
type Report struct {
	Event   Event
	Code    int    // exit code, or number of the signal
	Message string // of Failed
}

// Final tells that nothing follows.
func (r Report) Final() bool { return r.Event != Started }

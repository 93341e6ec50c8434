// Package protocol defines what the agent in a guest and its client exchange: HTTP
// requests with JSON bodies, and lines on the guest's console.
package protocol

// The ports of the agent in the guest, on all its addresses.
const (
	AgentPort = 9000 // HTTP, with the paths below
	NodePort  = 9001 // every connection is forwarded to NodeSocket
)

// NodeSocket is the path of the node plugin's socket in the guest.
const NodeSocket = "/run/growvol/node.sock"

// ModulesFile is the file of the image that lists the kernel modules to load at
// boot, one path a line, in the order in which they can be loaded.
const ModulesFile = "/etc/growvol-modules"

// The beginnings of lines that the agent prints on the guest's console.
const (
	ReadyLine  = "GROWVOL-GUEST-UP"     // it serves requests
	FailedLine = "GROWVOL-GUEST-FAILED" // the guest cannot continue
)

// The paths of the agent. Below PathProcesses are GET /{id} → State, GET /{id}/log → the
// output, and POST /{id}/signal with a Signal → State.
const (
	PathHealth    = "/health"    // GET → Health
	PathRun       = "/run"       // POST Command → Result, when the command has ended
	PathProcesses = "/processes" // POST Command → State of the started process
	PathFile      = "/file"      // GET ?path= → content; PUT content ?path=&mode=
)

// Command is a program to execute in the guest, as root.
type Command struct {
	Argv  []string `json:"argv"`
	Env   []string `json:"env,omitempty"` // besides PATH and HOME
	Stdin []byte   `json:"stdin,omitempty"`
	// TimeoutMS bounds PathRun in milliseconds; the program is then killed. 0 means a
	// minute.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// Result is the end of a command.
type Result struct {
	Code   int    `json:"code"`            // exit status, or -1 after a signal or a failed start
	Output string `json:"output"`          // standard output and standard error
	Error  string `json:"error,omitempty"` // why there is no exit status
}

// State is the state of a process that was started.
type State struct {
	ID      int    `json:"id"` // the process id in the guest
	Running bool   `json:"running"`
	Code    int    `json:"code"`            // as in Result, when it has ended
	Error   string `json:"error,omitempty"` // as in Result
}

// Signal is a signal to a process and its children.
type Signal struct {
	Number int `json:"number"`
}

// Health describes the guest.
type Health struct {
	Kernel        string  `json:"kernel"` // as uname -r
	UptimeSeconds float64 `json:"uptime_seconds"`
}

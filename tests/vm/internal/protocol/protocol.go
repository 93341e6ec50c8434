// Package protocol is what the agent in a guest and its client exchange:
// HTTP with JSON bodies.
package protocol

// The ports of the agent in the guest, on all its addresses.
const (
	AgentPort = 9000 // HTTP: the paths below
	NodePort  = 9001 // every connection is carried to NodeSocket
)

// NodeSocket is where a node plugin in the guest listens.
const NodeSocket = "/run/growvol/node.sock"

// ReadyLine is what the agent prints on the console when it serves requests.
const ReadyLine = "GROWVOL-GUEST-UP"

// FailedLine begins the line that process 1 prints on the console when the
// guest cannot continue.
const FailedLine = "GROWVOL-GUEST-FAILED"

// The paths of the agent.
const (
	PathHealth    = "/health"    // GET: Health
	PathRun       = "/run"       // POST Command: Result, once the command has ended
	PathProcesses = "/processes" // POST Command: State; the command runs on
	// GET PathProcesses/{id}: State; GET …/log?from=N: its output from byte N on;
	// POST …/signal: Signal, answered by State.
	PathFile = "/file" // GET ?path=, PUT ?path=&mode=: content
)

// Command is a program to execute in the guest, as root.
type Command struct {
	Argv  []string `json:"argv"`
	Env   []string `json:"env,omitempty"`   // besides PATH and HOME
	Stdin []byte   `json:"stdin,omitempty"` // for run only
	// TimeoutMS bounds a run; the program is then killed. Zero: a minute.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
}

// Result is how a command ended.
type Result struct {
	Code   int    `json:"code"` // exit status; -1 when a signal ended it
	Output string `json:"output"`
	Error  string `json:"error,omitempty"` // why it could not be run to its end
}

// State is what a process that was started is doing.
type State struct {
	ID      int    `json:"id"` // the process id in the guest
	Running bool   `json:"running"`
	Code    int    `json:"code"` // once it has ended, as in Result
	Error   string `json:"error,omitempty"`
}

// Signal asks for a signal to a process and its children.
type Signal struct {
	Number int `json:"number"`
}

// Health describes the guest.
type Health struct {
	Kernel        string  `json:"kernel"`
	UptimeSeconds float64 `json:"uptime_seconds"`
}

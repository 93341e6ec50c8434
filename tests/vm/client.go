package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

// The ports in the guest that a caller who boots an image in another way than
// by Start has to make reachable for Dial.
const (
	AgentPort = protocol.AgentPort
	NodePort  = protocol.NodePort
)

// NodeSocket is the path in the guest that the node plugin must listen on to
// be reached by DialNode.
const NodeSocket = protocol.NodeSocket

// ReadyLine is printed on the guest's console once the agent serves requests.
const ReadyLine = protocol.ReadyLine

// Agent is a connection to the agent in a guest.
type Agent struct {
	base, node string
	http       http.Client
}

// Dial returns the agent behind two addresses (host:port) of this machine,
// which lead to AgentPort and NodePort of the guest. Nothing is sent yet.
func Dial(agent, node string) *Agent {
	return &Agent{base: "http://" + agent, node: node, http: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2}}}
}

// AwaitReady waits until the agent answers, or ctx ends. It returns the version of
// the guest's kernel and how long it has been up.
func (a *Agent) AwaitReady(ctx context.Context) (kernel string, uptime time.Duration, err error) {
	for {
		var h protocol.Health
		// A connection into a guest that is still booting may hang.
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := a.call(try, http.MethodGet, protocol.PathHealth, nil, &h)
		cancel()
		if err == nil {
			return h.Kernel, time.Duration(h.UptimeSeconds * float64(time.Second)), nil
		}
		if perr := operation.Sleep(ctx, 100*time.Millisecond); perr != nil {
			return "", 0, fmt.Errorf("the agent in the guest does not answer: %w", errors.Join(perr, err))
		}
	}
}

// Command is a program to execute in the guest, as root, with the guest's
// PATH.
type Command struct {
	Argv    []string
	Env     []string // besides PATH and HOME, "NAME=value"
	Stdin   []byte
	Timeout time.Duration // of Run; zero: a minute
}

// Run executes a program to its end and returns what it wrote to standard
// output and standard error. An exit status other than zero is an *ExitError.
func (a *Agent) Run(ctx context.Context, c Command) (string, error) {
	var r protocol.Result
	err := a.call(ctx, http.MethodPost, protocol.PathRun, c.message(), &r)
	switch {
	case err != nil:
		return "", fmt.Errorf("run %q in the guest: %w", c.Argv, err)
	case r.Code != 0 || r.Error != "":
		return r.Output, &ExitError{Argv: c.Argv, Code: r.Code, Reason: r.Error, Output: r.Output}
	}
	return r.Output, nil
}

func (c Command) message() protocol.Command {
	return protocol.Command{Argv: c.Argv, Env: c.Env, Stdin: c.Stdin, TimeoutMS: c.Timeout.Milliseconds()}
}

// ExitError says that a program in the guest did not end with status zero.
type ExitError struct {
	Argv   []string
	Code   int    // exit status; -1 when it was killed or could not be started
	Reason string // in that case
	Output string
}

// Error shows the end of the output.
func (e *ExitError) Error() string {
	const enough = 2000
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Reason != "" {
		how = e.Reason
	}
	return fmt.Sprintf("%q in the guest: %s\n%s", e.Argv, how, e.Output[max(0, len(e.Output)-enough):])
}

// Process is a program that runs on in the guest.
type Process struct {
	agent *Agent
	argv  []string
	id    int
}

// Start starts a program that runs until it ends or is signaled.
func (a *Agent) Start(ctx context.Context, c Command) (*Process, error) {
	var s protocol.State
	if err := a.call(ctx, http.MethodPost, protocol.PathProcesses, c.message(), &s); err != nil {
		return nil, fmt.Errorf("start %q in the guest: %w", c.Argv, err)
	}
	return &Process{agent: a, argv: c.Argv, id: s.ID}, nil
}

func (p *Process) path() string { return fmt.Sprintf("%s/%d", protocol.PathProcesses, p.id) }

// Signal sends a signal to the process and its children. It is no error when
// they have ended.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	return p.agent.call(ctx, http.MethodPost, p.path()+"/signal", protocol.Signal{Number: int(sig)}, nil)
}

// IsRunning tells whether the process has not ended yet.
func (p *Process) IsRunning(ctx context.Context) (bool, error) {
	var s protocol.State
	err := p.agent.call(ctx, http.MethodGet, p.path(), nil, &s)
	return s.Running, err
}

// Wait waits until the process has ended; see Run for its error.
func (p *Process) Wait(ctx context.Context) error {
	for {
		var s protocol.State
		if err := p.agent.call(ctx, http.MethodGet, p.path(), nil, &s); err != nil {
			return err
		}
		if !s.Running {
			if s.Code == 0 && s.Error == "" {
				return nil
			}
			log, err := p.Log(ctx)
			return errors.Join(&ExitError{Argv: p.argv, Code: s.Code, Reason: s.Error, Output: log}, err)
		}
		if err := operation.Sleep(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%q in the guest has not ended: %w", p.argv, err)
		}
	}
}

// Kill ends the process without warning and waits until it is gone.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	err := p.Wait(ctx)
	var exit *ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// Log returns all that the process has written so far to standard output and
// standard error.
func (p *Process) Log(ctx context.Context) (string, error) {
	content, err := p.agent.send(ctx, http.MethodGet, p.path()+"/log", nil)
	return string(content), err
}

// WriteFile writes a file in the guest, making its directory.
func (a *Agent) WriteFile(ctx context.Context, path string, mode os.FileMode, content []byte) error {
	query := url.Values{"path": {path}, "mode": {fmt.Sprintf("%o", mode.Perm())}}
	_, err := a.send(ctx, http.MethodPut, protocol.PathFile+"?"+query.Encode(), content)
	return err
}

// ReadFile reads a file of the guest. A missing one is fs.ErrNotExist.
func (a *Agent) ReadFile(ctx context.Context, path string) ([]byte, error) {
	return a.send(ctx, http.MethodGet, protocol.PathFile+"?"+url.Values{"path": {path}}.Encode(), nil)
}

// DialNode returns a connection to the node plugin in the guest. It is made
// when it is used first, and again when the plugin was restarted.
func (a *Agent) DialNode() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+a.node, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Close lets go of idle connections.
func (a *Agent) Close() { a.http.CloseIdleConnections() }

// call sends a value as JSON and reads one back; either may be nil.
func (a *Agent) call(ctx context.Context, method, path string, request, response any) error {
	var body []byte
	if request != nil {
		var err error
		if body, err = json.Marshal(request); err != nil {
			return err
		}
	}
	content, err := a.send(ctx, method, path, body)
	if err != nil || response == nil {
		return err
	}
	return json.Unmarshal(content, response)
}

func (a *Agent) send(ctx context.Context, method, path string, body []byte) (content []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	content, err = io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return content, nil
	case http.StatusNotFound:
		return nil, fmt.Errorf("agent: %s: %w", strings.TrimSpace(string(content)), os.ErrNotExist)
	}
	return nil, fmt.Errorf("agent: %s: %s", resp.Status, strings.TrimSpace(string(content)))
}

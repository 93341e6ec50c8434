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

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

// The agent's ports in the guest. A caller that does not boot the image with Start
// makes them reachable for Dial.
const (
	AgentPort = protocol.AgentPort
	NodePort  = protocol.NodePort
)

// NodeSocket is the path of the node plugin's socket in the guest, where DialNode
// reaches it.
const NodeSocket = protocol.NodeSocket

// ReadyLine begins the line that the agent prints on the guest's console when it
// serves requests.
const ReadyLine = protocol.ReadyLine

// Agent is a client of the agent in a guest.
type Agent struct {
	url         string // of the agent
	nodeAddress string // of the node plugin
	http        http.Client
}

// Dial returns a client of the agent. The two addresses (host:port) of this machine
// lead to AgentPort and NodePort of the guest. Dial sends nothing.
func Dial(agent, node string) *Agent {
	transport := &http.Transport{MaxIdleConnsPerHost: 2}
	return &Agent{url: "http://" + agent, nodeAddress: node, http: http.Client{Transport: transport}}
}

// AwaitReady waits until the agent answers or ctx ends. It returns the version of
// the guest's kernel and the uptime of the guest.
func (a *Agent) AwaitReady(ctx context.Context) (kernel string, uptime time.Duration, err error) {
	for {
		var h protocol.Health
		// A connection into a guest that is still booting may hang.
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := a.call(attempt, http.MethodGet, protocol.PathHealth, nil, &h)
		cancel()
		if err == nil {
			return h.Kernel, time.Duration(h.UptimeSeconds * float64(time.Second)), nil
		}
		if ctxErr := operation.Sleep(ctx, 100*time.Millisecond); ctxErr != nil {
			return "", 0, fmt.Errorf("the agent in the guest does not answer: %w", errors.Join(ctxErr, err))
		}
	}
}

// Command is a program to execute in the guest, as root, with the guest's PATH.
type Command struct {
	Argv    []string
	Env     []string // besides PATH and HOME, "NAME=value"
	Stdin   []byte
	Timeout time.Duration // of Run; zero: a minute
}

// Run executes a program to its end and returns its standard output and standard
// error, mixed. The error is an *ExitError if the exit status is not 0.
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

// message returns the command as it is sent to the agent.
func (c Command) message() protocol.Command {
	return protocol.Command{Argv: c.Argv, Env: c.Env, Stdin: c.Stdin, TimeoutMS: c.Timeout.Milliseconds()}
}

// ExitError reports a program in the guest that did not exit with status 0.
type ExitError struct {
	Argv   []string
	Code   int    // exit status, or -1 if the program was killed or not started
	Reason string // why, if Code is -1
	Output string
}

// Error returns a message with the end of the output.
func (e *ExitError) Error() string {
	const maxOutput = 2000
	reason := fmt.Sprintf("exit status %d", e.Code)
	if e.Reason != "" {
		reason = e.Reason
	}
	return fmt.Sprintf("%q in the guest: %s\n%s", e.Argv, reason, e.Output[max(0, len(e.Output)-maxOutput):])
}

// Process is a program that runs in the guest until it ends or gets a signal.
type Process struct {
	agent *Agent
	argv  []string
	id    int
}

// Start starts a program and does not wait for its end.
func (a *Agent) Start(ctx context.Context, c Command) (*Process, error) {
	var s protocol.State
	if err := a.call(ctx, http.MethodPost, protocol.PathProcesses, c.message(), &s); err != nil {
		return nil, fmt.Errorf("start %q in the guest: %w", c.Argv, err)
	}
	return &Process{agent: a, argv: c.Argv, id: s.ID}, nil
}

func (p *Process) path() string { return fmt.Sprintf("%s/%d", protocol.PathProcesses, p.id) }

// Signal sends a signal to the process and its children. It succeeds when they have
// ended.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	return p.agent.call(ctx, http.MethodPost, p.path()+"/signal", protocol.Signal{Number: int(sig)}, nil)
}

// IsRunning reports whether the process has not ended yet.
func (p *Process) IsRunning(ctx context.Context) (bool, error) {
	var s protocol.State
	err := p.agent.call(ctx, http.MethodGet, p.path(), nil, &s)
	return s.Running, err
}

// Wait waits until the process has ended. Its error is that of Run.
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

// Kill ends the process with SIGKILL and waits until it has ended.
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

// Log returns what the process has written so far to standard output and standard
// error.
func (p *Process) Log(ctx context.Context) (string, error) {
	content, err := p.agent.send(ctx, http.MethodGet, p.path()+"/log", nil)
	return string(content), err
}

// WriteFile writes a file in the guest and creates its directory.
func (a *Agent) WriteFile(ctx context.Context, path string, mode os.FileMode, content []byte) error {
	query := url.Values{"path": {path}, "mode": {fmt.Sprintf("%o", mode.Perm())}}
	_, err := a.send(ctx, http.MethodPut, protocol.PathFile+"?"+query.Encode(), content)
	return err
}

// ReadFile reads a file of the guest. Its error is fs.ErrNotExist if there is none.
func (a *Agent) ReadFile(ctx context.Context, path string) ([]byte, error) {
	return a.send(ctx, http.MethodGet, protocol.PathFile+"?"+url.Values{"path": {path}}.Encode(), nil)
}

// DialNode returns a client connection to the node plugin in the guest. gRPC
// connects at the first call, and again after a restart of the plugin.
func (a *Agent) DialNode() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+a.nodeAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Close closes idle connections.
func (a *Agent) Close() { a.http.CloseIdleConnections() }

// call sends the request as JSON and decodes the response. Both may be nil.
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

// send sends a request and returns the body of the response. Its error is
// fs.ErrNotExist for the status 404.
func (a *Agent) send(ctx context.Context, method, path string, body []byte) (content []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(body))
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

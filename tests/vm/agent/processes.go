package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

// processes are the processes of PathProcesses, by their ids. They stay here after
// their end, so that their logs can be read.
type processes struct {
	mu   sync.Mutex
	byID map[string]*process
}

// process is one of the processes.
type process struct {
	cmd    *exec.Cmd
	output outputBuffer
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

func newProcesses() *processes { return &processes{byID: map[string]*process{}} }

// newCommand returns the command, whose output goes to output, with a process group
// of its own.
func newCommand(ctx context.Context, c protocol.Command, output *outputBuffer) (*exec.Cmd, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("argv is empty")
	}
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...) //nolint:gosec // the agent's purpose
	cmd.Env = append([]string{"PATH=" + searchPath, "HOME=/root", "LC_ALL=C", "DM_DISABLE_UDEV=1"}, c.Env...)
	cmd.Stdin = bytes.NewReader(c.Stdin)
	cmd.Stdout, cmd.Stderr = output, output
	// Signals to the group reach its children too.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd, nil
}

// run executes a command to its end, or kills it after its timeout.
func run(ctx context.Context, c protocol.Command) protocol.Result {
	timeout := time.Duration(c.TimeoutMS) * time.Millisecond
	if timeout <= 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out outputBuffer
	cmd, err := newCommand(ctx, c, &out)
	if err != nil {
		return protocol.Result{Code: -1, Error: err.Error()}
	}
	err = cmd.Run()
	code, text := exitStatus(cmd, err)
	if ctx.Err() != nil {
		text = fmt.Sprintf("killed after %s: %v", timeout, ctx.Err())
	}
	return protocol.Result{Code: code, Output: out.String(), Error: text}
}

// exitStatus returns the exit status of a command whose Run or Wait returned err,
// or -1. The reason is empty unless err reports more than an exit status.
func exitStatus(cmd *exec.Cmd, err error) (code int, reason string) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, ""
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode(), ""
	case cmd.ProcessState != nil && cmd.ProcessState.Exited():
		return cmd.ProcessState.ExitCode(), err.Error()
	}
	return -1, err.Error()
}

// start starts a process that runs until it ends by itself, by a signal or with
// ctx.
func (p *processes) start(ctx context.Context, c protocol.Command) (protocol.State, error) {
	started := &process{exited: make(chan struct{})}
	cmd, err := newCommand(ctx, c, &started.output)
	if err != nil {
		return protocol.State{}, err
	}
	if err := cmd.Start(); err != nil {
		return protocol.State{}, err
	}
	started.cmd = cmd
	p.mu.Lock()
	p.byID[strconv.Itoa(cmd.Process.Pid)] = started
	p.mu.Unlock()
	go func() {
		started.err = cmd.Wait()
		close(started.exited)
	}()
	return started.state(), nil
}

// get returns a process. Its error is os.ErrNotExist for an unknown id.
func (p *processes) get(id string) (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, ok := p.byID[id]
	if !ok {
		return nil, fmt.Errorf("process %s: %w", id, os.ErrNotExist)
	}
	return found, nil
}

func (p *processes) state(id string) (protocol.State, error) {
	found, err := p.get(id)
	if err != nil {
		return protocol.State{}, err
	}
	return found.state(), nil
}

func (p *processes) log(id string) ([]byte, error) {
	found, err := p.get(id)
	if err != nil {
		return nil, err
	}
	return []byte(found.output.String()), nil
}

// signal sends the signal to the process and its children. It succeeds when they
// have ended.
func (p *processes) signal(id string, sig unix.Signal) (protocol.State, error) {
	found, err := p.get(id)
	if err != nil {
		return protocol.State{}, err
	}
	if err := unix.Kill(-found.cmd.Process.Pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return protocol.State{}, err
	}
	return found.state(), nil
}

func (p *process) state() protocol.State {
	s := protocol.State{ID: p.cmd.Process.Pid}
	select {
	case <-p.exited:
		s.Code, s.Error = exitStatus(p.cmd, p.err)
	default:
		s.Running = true
	}
	return s
}

// outputBuffer is output that is read while the process still writes.
type outputBuffer struct {
	mu   sync.Mutex
	data strings.Builder
}

func (b *outputBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *outputBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

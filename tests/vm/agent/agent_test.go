package main

import (
	"context"
	"errors"
	"io/fs"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/vm"
)

// newAgent returns a client of an agent that serves on this machine instead of in a
// guest.
func newAgent(t *testing.T) *vm.Agent {
	t.Helper()
	server := httptest.NewServer(handler(newProcesses()))
	t.Cleanup(server.Close)
	a := vm.Dial(strings.TrimPrefix(server.URL, "http://"), "127.0.0.1:1")
	t.Cleanup(a.Close)
	return a
}

func TestRunReturnsOutputAndExitStatus(t *testing.T) {
	a, ctx := newAgent(t), t.Context()
	out, err := a.Run(ctx, vm.Command{
		Argv: []string{"sh", "-c", "cat; echo $X"}, Env: []string{"X=env"}, Stdin: []byte("in\n"),
	})
	if err != nil || out != "in\nenv\n" {
		t.Errorf("got the output %q, %v; want standard input and the variable", out, err)
	}
	var exit *vm.ExitError
	out, err = a.Run(ctx, vm.Command{Argv: []string{"sh", "-c", "echo why >&2; exit 7"}})
	if !errors.As(err, &exit) || exit.Code != 7 || out != "why\n" || !strings.Contains(err.Error(), "why") {
		t.Errorf("got the output %q, %v; want exit status 7 with the output", out, err)
	}
	_, err = a.Run(ctx, vm.Command{Argv: []string{"/nonexistent"}})
	if !errors.As(err, &exit) || exit.Code != -1 || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a missing program: got %v", err)
	}
	// The children of the killed program hold its output open.
	start := time.Now()
	_, err = a.Run(ctx, vm.Command{Argv: []string{"sh", "-c", "sleep 20 & sleep 20"}, Timeout: 100 * time.Millisecond})
	if !errors.As(err, &exit) || !strings.Contains(err.Error(), "killed after 100ms") {
		t.Errorf("got %v, want the program killed", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Run returned after %s, want 100 ms and a little", took)
	}
}

func TestProcessesAreSignaledAndWaitedFor(t *testing.T) {
	a := newAgent(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	script := "trap 'echo bye; exit 3' TERM; echo hello; for i in $(seq 400); do sleep 0.05; done"
	p, err := a.Start(ctx, vm.Command{Argv: []string{"sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		if log, err := p.Log(ctx); err != nil || log == "hello\n" {
			break
		}
	}
	if running, err := p.IsRunning(ctx); err != nil || !running {
		t.Errorf("got running %t, %v; want true", running, err)
	}
	if err := p.Signal(ctx, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	var exit *vm.ExitError
	if err := p.Wait(ctx); !errors.As(err, &exit) || exit.Code != 3 || !strings.Contains(exit.Output, "bye") {
		t.Errorf("got %v, want exit status 3 with the output", err)
	}
	if err := p.Kill(ctx); err != nil { // it has ended
		t.Error(err)
	}
	p, err = a.Start(ctx, vm.Command{Argv: []string{"sleep", "20"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(ctx); err != nil {
		t.Error(err)
	}
	if err := p.Wait(ctx); !errors.As(err, &exit) || exit.Code != -1 || !strings.Contains(exit.Reason, "killed") {
		t.Errorf("got %v, want the process killed", err)
	}
}

func TestFilesAreWrittenAndRead(t *testing.T) {
	a, ctx := newAgent(t), t.Context()
	path := filepath.Join(t.TempDir(), "new directory", "file&more")
	if err := a.WriteFile(ctx, path, 0o755, []byte("#!/bin/sh\necho it runs\n")); err != nil {
		t.Fatal(err)
	}
	if out, err := a.Run(ctx, vm.Command{Argv: []string{path}}); err != nil || out != "it runs\n" {
		t.Errorf("run the file: got %q, %v", out, err)
	}
	if content, err := a.ReadFile(ctx, path); err != nil || !strings.HasPrefix(string(content), "#!") {
		t.Errorf("read the file: got %q, %v", content, err)
	}
	if _, err := a.ReadFile(ctx, path+"x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read a missing file: got %v, want fs.ErrNotExist", err)
	}
}

func TestAwaitReadyReturnsKernelAndUptime(t *testing.T) {
	kernel, uptime, err := newAgent(t).AwaitReady(t.Context())
	if err != nil || kernel == "" || uptime <= 0 {
		t.Errorf("got kernel %q, uptime %s, %v", kernel, uptime, err)
	}
}

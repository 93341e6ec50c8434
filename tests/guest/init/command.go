package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/guest/internal/protocol"
)

// drainTimeout bounds the time between the end of the command and the report of it:
// its last output and its files on writable shares are written out. A frozen
// filesystem must not keep the guest from the report.
const drainTimeout = 10 * time.Second

// runGuest is process 1 of the guest. It does not return.
func runGuest() {
	status, err := openRaw(protocol.StatusLine)
	if err != nil {
		// Package guest shows the console of a guest that ends without a report.
		fmt.Fprintln(os.Stderr, "init:", err)
		powerOff()
	}
	final, err := runCommand(func(r protocol.Report) error { return sendReport(status, r) })
	if err != nil {
		final = protocol.Report{Event: protocol.EventFailed, Message: err.Error()}
	}
	if err := sendReport(status, final); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	powerOff()
}

func powerOff() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	panic("power off returned")
}

// sendReport writes a report to the status line and waits until it is out.
func sendReport(to *os.File, r protocol.Report) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := to.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send the report %s: %w", r.Event, err)
	}
	return drain(to)
}

// runCommand prepares the guest, runs the command of the task and returns the final
// report. It passes the report of the start to send.
func runCommand(send func(protocol.Report) error) (protocol.Report, error) {
	task, err := readTask()
	if err != nil {
		return protocol.Report{}, err
	}
	if err := setUp(task); err != nil {
		return protocol.Report{}, err
	}
	out, err := newRelay(protocol.StdoutLine)
	if err != nil {
		return protocol.Report{}, err
	}
	errOut, err := newRelay(protocol.StderrLine)
	if err != nil {
		return protocol.Report{}, err
	}
	pid, err := startCommand(task, out.in, errOut.in)
	if err != nil {
		return protocol.Report{}, err
	}
	if err := send(protocol.Report{Event: protocol.EventStarted}); err != nil {
		return protocol.Report{}, err
	}
	ended := reapUntil(pid)
	// Processes that the command has left hold its output open.
	_ = syscall.Kill(-1, syscall.SIGKILL)
	if err := drainAll(task, out, errOut); err != nil {
		return protocol.Report{}, fmt.Errorf("the command has ended (%s), but %w", describeStatus(ended), err)
	}
	if ended.Signaled() {
		return protocol.Report{Event: protocol.EventSignaled, Code: int(ended.Signal())}, nil
	}
	return protocol.Report{Event: protocol.EventExited, Code: ended.ExitStatus()}, nil
}

// describeStatus returns a text for an error message.
func describeStatus(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

func readTask() (*protocol.Task, error) {
	raw, err := os.ReadFile(protocol.TaskFile)
	if err != nil {
		return nil, err
	}
	task := new(protocol.Task)
	if err := json.Unmarshal(raw, task); err != nil {
		return nil, fmt.Errorf("%s: %w", protocol.TaskFile, err)
	}
	return task, nil
}

// startCommand starts the command of the task with the two ends of its output.
func startCommand(task *protocol.Task, stdout, stderr *os.File) (pid int, err error) {
	for _, e := range task.Env {
		if name, value, _ := strings.Cut(e, "="); name == "PATH" {
			if err := os.Setenv(name, value); err != nil {
				return 0, err
			}
		}
	}
	path, err := exec.LookPath(task.Path)
	if err != nil {
		return 0, fmt.Errorf("in the guest: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	pid, err = syscall.ForkExec(path, append([]string{task.Path}, task.Args...), &syscall.ProcAttr{
		Dir:   task.Dir,
		Env:   task.Env,
		Files: []uintptr{null.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s in the guest (directory %s): %w", path, task.Dir, err)
	}
	return pid, errors.Join(null.Close(), stdout.Close(), stderr.Close())
}

// drainAll waits until all output is out and the machine has everything that was
// written to a writable share, for drainTimeout at most.
func drainAll(task *protocol.Task, relays ...*relay) error {
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, p := range relays {
			errs = append(errs, p.wait())
		}
		for _, m := range task.Mounts {
			if m.Writable {
				errs = append(errs, syncShare(m.Guest))
			}
		}
		done <- errors.Join(errs...)
	}()
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("its output or files are still not written out after %v", drainTimeout)
	}
}

// syncShare writes back one share. sync(2) would also wait for the frozen and the
// failed filesystems of the guest.
func syncShare(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("write back the share %s: %w", dir, err)
	}
	return nil
}

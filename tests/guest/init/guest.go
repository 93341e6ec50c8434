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

// drainTime bounds what may follow the end of the command: its output on the
// way, files on writable shares. A frozen filesystem must not keep the guest
// from telling the exit code.
const drainTime = 10 * time.Second

// runGuest is the whole life of the guest's user space. It does not return.
func runGuest() {
	status, err := openRaw(protocol.Status)
	if err != nil {
		// Nobody to tell but the console. The harness shows it, since the
		// guest ends without a report.
		fmt.Fprintln(os.Stderr, "init:", err)
		powerOff()
	}
	final, err := runCommand(func(r protocol.Report) error { return report(status, r) })
	if err != nil {
		final = protocol.Report{Event: protocol.Failed, Message: err.Error()}
	}
	if err := report(status, final); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	powerOff()
}

func powerOff() {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	panic("power off returned")
}

func report(to *os.File, r protocol.Report) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := to.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("report %s: %w", r.Event, err)
	}
	return drain(to)
}

func runCommand(tell func(protocol.Report) error) (protocol.Report, error) {
	// devtmpfs is the kernel's doing; the rest of the machine is ours.
	s, err := readSpec()
	if err != nil {
		return protocol.Report{}, err
	}
	if err := setUp(s); err != nil {
		return protocol.Report{}, err
	}
	out, err := newPump(protocol.Stdout)
	if err != nil {
		return protocol.Report{}, err
	}
	errOut, err := newPump(protocol.Stderr)
	if err != nil {
		return protocol.Report{}, err
	}
	pid, err := start(s, out.in, errOut.in)
	if err != nil {
		return protocol.Report{}, err
	}
	if err := tell(protocol.Report{Event: protocol.Started}); err != nil {
		return protocol.Report{}, err
	}
	ended := reapUntil(pid)
	// What the command left running holds its output open and would go on
	// writing to it: its run is over.
	_ = syscall.Kill(-1, syscall.SIGKILL)
	if err := finish(s, out, errOut); err != nil {
		return protocol.Report{}, fmt.Errorf("command ended (%s), but %w", describe(ended), err)
	}
	if ended.Signaled() {
		return protocol.Report{Event: protocol.Signaled, Code: int(ended.Signal())}, nil
	}
	return protocol.Report{Event: protocol.Exited, Code: ended.ExitStatus()}, nil
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

func readSpec() (*protocol.Spec, error) {
	raw, err := os.ReadFile(protocol.File)
	if err != nil {
		return nil, err
	}
	s := new(protocol.Spec)
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("%s: %w", protocol.File, err)
	}
	return s, nil
}

func start(s *protocol.Spec, stdout, stderr *os.File) (pid int, err error) {
	for _, e := range s.Env {
		if name, value, _ := strings.Cut(e, "="); name == "PATH" {
			if err := os.Setenv(name, value); err != nil {
				return 0, err
			}
		}
	}
	path, err := exec.LookPath(s.Path)
	if err != nil {
		return 0, fmt.Errorf("in the guest: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	pid, err = syscall.ForkExec(path, append([]string{s.Path}, s.Args...), &syscall.ProcAttr{
		Dir:   s.Dir,
		Env:   s.Env,
		Files: []uintptr{null.Fd(), stdout.Fd(), stderr.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s in the guest (directory %s): %w", path, s.Dir, err)
	}
	return pid, errors.Join(null.Close(), stdout.Close(), stderr.Close())
}

// finish waits, for a bounded time, until all output is out and everything
// that was written to a writable share is on the host.
func finish(s *protocol.Spec, pumps ...*pump) error {
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, p := range pumps {
			errs = append(errs, p.wait())
		}
		for _, m := range s.Mounts {
			if m.Writable {
				errs = append(errs, syncShare(m.Guest))
			}
		}
		done <- errors.Join(errs...)
	}()
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("its output or files were still not out after %v", drainTime)
	}
}

// syncShare writes back one share. A plain sync would wait for every
// filesystem of the guest, frozen or dead ones too.
func syncShare(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("write back share %s: %w", dir, err)
	}
	return nil
}

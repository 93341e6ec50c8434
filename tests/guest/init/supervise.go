package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// supervise runs the guest kernel, confine's arguments args[1:].
//
// A killed User-Mode Linux leaves the host processes that carry the guest's
// programs behind, and what they do next they do to the host. Here they live
// in a PID namespace of their own, whose process 1 this is: the host's kernel
// sends SIGKILL to all of them at once when this process ends, however it ends.
//
// Standard input is the life line: its other end is held by the harness alone,
// and end of file says that the harness gave up or is gone. Then the guest is
// killed and its directory args[0] removed; else that is left to the harness.
func supervise(args []string) int {
	if os.Getpid() != 1 || len(args) < 2 {
		fmt.Fprintln(os.Stderr, "supervise DIR CONFINE-ARG... must be process 1 of a PID namespace")
		return 2
	}
	kernel, err := startKernel(args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	abandoned := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(abandoned)
		_ = syscall.Kill(-1, syscall.SIGKILL)
	}()
	status := reapUntil(kernel)
	_ = syscall.Kill(-1, syscall.SIGKILL)
	reapAll()
	select {
	case <-abandoned:
		_ = os.RemoveAll(args[0])
	default:
	}
	if status.Signaled() {
		fmt.Fprintf(os.Stderr, "guest kernel: killed by signal %d (%v)\n", int(status.Signal()), status.Signal())
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// startKernel hands the inherited descriptors 3, 4 and 5 on and gives up its
// own copies, so that the harness sees end of file when the kernel is gone. The
// kernel gets a process group of its own: when it panics it signals its group.
func startKernel(args []string) (pid int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	files := []uintptr{null.Fd(), 1, 2, 3, 4, 5}
	pid, err = syscall.ForkExec(self, append([]string{self, "confine"}, args...), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWNS},
	})
	if err != nil {
		return 0, fmt.Errorf("start the guest kernel: %w", err)
	}
	for _, fd := range files[3:] {
		_ = syscall.Close(int(fd))
	}
	return pid, null.Close()
}

// reapUntil collects every child that ends, until it is pid.
func reapUntil(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case got == pid && (status.Exited() || status.Signaled()):
			return status
		case errors.Is(err, syscall.ECHILD):
			return 0xff << 8 // cannot be: somebody else collected it
		}
	}
}

// reapAll collects the children that are left, all of them killed.
func reapAll() {
	for {
		_, err := syscall.Wait4(-1, nil, 0, nil)
		if errors.Is(err, syscall.ECHILD) {
			return
		}
	}
}

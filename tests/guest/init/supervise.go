package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
)

// supervise runs the guest's kernel through confine, whose arguments are args[2:],
// and returns an exit code. The kernel inherits the descriptors from 3 on, whose
// number is args[1].
//
// A User-Mode Linux that is killed leaves the machine's processes of the guest's
// programs behind, and their next system calls would act on the machine. Here they
// are in a PID namespace whose process 1 is supervise: when it ends in any way, the
// machine's kernel sends SIGKILL to all of them.
//
// Only package guest holds the other end of standard input. End of file means that
// package guest gives up or is gone: supervise then kills the guest and removes its
// directory args[0], which it otherwise leaves to package guest.
func supervise(args []string) int {
	if os.Getpid() != 1 || len(args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: init supervise DIR DESCRIPTORS CONFINE-ARG..., as process 1 of a PID namespace")
		return 2
	}
	inherited, err := strconv.Atoi(args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	kernel, err := startKernel(inherited, args[2:])
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
		fmt.Fprintf(os.Stderr, "the guest's kernel was killed by signal %d (%v)\n", int(status.Signal()), status.Signal())
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// startKernel starts confine with the inherited descriptors from 3 on and closes
// its own, so that package guest reads end of file when the kernel has ended. The
// kernel gets its own process group because it signals its group when it panics.
func startKernel(inherited int, args []string) (pid int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	files := []uintptr{null.Fd(), 1, 2}
	for fd := range inherited {
		files = append(files, uintptr(3+fd))
	}
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

// reapUntil waits for every child that ends until the child pid does, and returns
// its status.
func reapUntil(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case got == pid && (status.Exited() || status.Signaled()):
			return status
		case errors.Is(err, syscall.ECHILD):
			return 0xff << 8 // exit code 255; impossible unless another function waited for pid
		}
	}
}

// reapAll waits for all children, which have been killed.
func reapAll() {
	for {
		_, err := syscall.Wait4(-1, nil, 0, nil)
		if errors.Is(err, syscall.ECHILD) {
			return
		}
	}
}

// Command agent is process 1 of a test guest. It sets up the system, starts itself
// again as the server of package vm's requests, and then only reaps orphaned
// processes.
//
// The server executes every request of every client: it has no authentication and
// runs in guests of tests only.
package main

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/tests/vm/internal/protocol"
)

func main() {
	if os.Getpid() == 1 {
		err := runInit()
		fmt.Fprintln(os.Stderr, protocol.FailedLine, err)
		// Without power-off the kernel would panic, and its message would hide the cause.
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		return
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// runInit is process 1. It returns only when the guest cannot continue.
func runInit() error {
	if err := setUp(); err != nil {
		return err
	}
	path, err := os.Executable()
	if err != nil {
		return err
	}
	server := exec.Command(path) //nolint:forbidigo,noctx // it runs as long as the guest
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	server.Env = []string{"PATH=" + searchPath, "HOME=/root"}
	if err := server.Start(); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &status, 0, nil); {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		case pid == server.Process.Pid:
			return fmt.Errorf("the server has ended: exit status %d, signal %d", status.ExitStatus(), status.Signal())
		}
	}
}

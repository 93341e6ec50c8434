package luks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// cryptsetupCommand is one run of cryptsetup.
type cryptsetupCommand struct {
	Args []string
	// Passphrase is the content of standard input, which is empty for nil.
	Passphrase []byte
	// Disk is inherited by the program, which opens it as diskPath. So the lock on the disk
	// lasts until the program has ended.
	Disk *os.File
}

// diskPath is the path of a command's disk. It leads to the inherited open file, and not to a
// device name that another device can have by now.
const diskPath = "/proc/self/fd/3"

// runner runs cryptsetup and, after the program has ended, returns its standard error. When
// ctx ends, runner kills the program.
type runner func(ctx context.Context, c cryptsetupCommand) (stderr string, err error)

// cryptsetup runs a command on a locked disk, and removes what a failed one leaves there.
func (s *System) cryptsetup(ctx context.Context, d blockdev.Device, c cryptsetupCommand) (string, error) {
	stderr, err := s.run(ctx, c)
	if err != nil {
		s.removeTemporaryMappings(ctx, d)
	}
	return stderr, err
}

// runCryptsetup is the runner that starts the real cryptsetup.
func runCryptsetup(ctx context.Context, c cryptsetupCommand) (string, error) {
	return runProgram(ctx, c, append([]string{"cryptsetup"}, c.Args...))
}

// runProgram runs a program with standard input, disk and environment as for cryptsetup.
func runProgram(ctx context.Context, c cryptsetupCommand, program []string) (string, error) {
	stdin, err := memoryFile("passphrase", c.Passphrase)
	if err != nil {
		return "", err
	}
	defer closeQuietly(stdin)
	stderr, err := memoryFile("stderr", nil)
	if err != nil {
		return "", err
	}
	defer closeQuietly(stderr)
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Stdin = stdin
	cmd.ExtraFiles = []*os.File{c.Disk}
	// udev's semaphores are in the host's IPC namespace; from a container, libdevmapper would
	// wait for them for ever.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DM_DISABLE_UDEV=1")
	// With a pipe, a run that has succeeded would fail if this process did not get to read the rest
	// in time (exec.ErrWaitDelay).
	cmd.Stderr = stderr
	err = cmd.Run()
	const limit = 400 // bytes; enough for the messages of cryptsetup
	text := make([]byte, limit)
	n, readErr := stderr.ReadAt(text, 0)
	if readErr != nil && !errors.Is(readErr, io.EOF) {
		err = volume.Join(err, readErr)
	}
	return strings.Join(strings.Fields(string(text[:n])), " "), err
}

// memoryFile returns a file in memory with this content. With a pipe, a node plugin that is killed
// while it writes would make cryptsetup format with the first half of the passphrase.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.Write(content); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		closeQuietly(f)
		return nil, err
	}
	return f, nil
}

// Exit statuses of cryptsetup(8).
const (
	exitNoPermission = 2 // the passphrase opens no key slot
	exitNoMemory     = 3
	exitBusy         = 5
)

// commandError returns the error for a run of cryptsetup without the requested result. Its text
// begins with what. The exit status chooses kind and remedy.
func commandError(ctx context.Context, what string, disk blockdev.Device, stderr string, cause error) error {
	code := 0
	var exit *exec.ExitError
	if errors.As(cause, &exit) {
		code = exit.ExitCode() // -1: killed by a signal
	}
	kind, remedy := volume.KindInternal, "check the message of cryptsetup and the kernel log of this node"
	switch {
	case ctx.Err() != nil:
		kind, stderr = volume.KindOf(ctx.Err()), ""
		cause = fmt.Errorf("cryptsetup was stopped before it finished: %w", ctx.Err())
		remedy = "Kubernetes retries this automatically; " +
			"if the error persists, check the load of this node: unlocking a key takes about a second"
	case errors.Is(cause, exec.ErrNotFound):
		remedy = "run the node plugin from its own image, which contains cryptsetup, or install it in your image"
	case code == exitNoPermission:
		kind = volume.KindPrecondition
		remedy = "correct the secret that csi.storage.k8s.io/node-stage-secret-name of the StorageClass names: " +
			"its passphrase opens no key slot of this volume"
	case code == exitNoMemory, code < 0:
		remedy = "raise the memory limit of the node plugin: " +
			"unlocking a key takes memory (64 MiB for a volume that this driver formatted)"
	case code == exitBusy:
		kind = volume.KindDeadline
		remedy = blockdev.InUseRemedy(disk.Path)
	case cause == nil:
		cause = errors.New("cryptsetup reported success")
	}
	if stderr != "" {
		cause = fmt.Errorf("%w: %s", cause, strings.ReplaceAll(stderr, diskPath, disk.Path))
	}
	return volume.Errorf(kind, "%s: %w", what, cause).WithRemedy(remedy)
}

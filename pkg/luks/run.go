package luks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Command is one run of cryptsetup.
type Command struct {
	Args []string
	// Passphrase is written to standard input; nil: nothing is.
	Passphrase []byte
	// Disk is inherited by the program: it finds the device at DiskPath, and the
	// lock on the disk lasts until the program is gone.
	Disk *os.File
}

// DiskPath is where a Command finds its disk: the path leads to the open file
// itself, not to a name that another device may have got.
const DiskPath = "/proc/self/fd/3"

// Runner runs cryptsetup and returns, once the program is really gone, what it
// wrote to standard error. When ctx ends the program is killed.
type Runner func(ctx context.Context, c Command) (stderr string, err error)

// cryptsetup runs a command on a locked disk.
func (s *System) cryptsetup(ctx context.Context, d blockdev.Device, c Command) (string, error) {
	stderr, err := s.run(ctx, c)
	if err != nil {
		s.dropTemporary(ctx, d)
	}
	return stderr, err
}

// execute is the runner of the real machine.
func execute(ctx context.Context, c Command) (string, error) {
	return executeProgram(ctx, c, append([]string{"cryptsetup"}, c.Args...))
}

// executeProgram runs a program as it runs cryptsetup.
func executeProgram(ctx context.Context, c Command, program []string) (string, error) {
	stdin, err := memoryFile(c.Passphrase)
	if err != nil {
		return "", err
	}
	defer closeQuietly(stdin)
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Stdin = stdin
	cmd.ExtraFiles = []*os.File{c.Disk}
	// Without udev's semaphores: they live in the host's IPC namespace, and
	// from a container libdevmapper would wait for them for ever.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DM_DISABLE_UDEV=1")
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err = cmd.Run()
	const limit = 400
	text := strings.Join(strings.Fields(stderr.String()), " ")
	return text[:min(len(text), limit)], err
}

// memoryFile makes a file of its own that has the passphrase and no name. A
// pipe would have a writer: a node plugin that is killed while it writes would
// leave cryptsetup with half of the passphrase, to format with that.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("passphrase", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "passphrase")
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

// commandError turns a failed run of cryptsetup into an error that begins with
// what, and names the disk.
func commandError(ctx context.Context, what string, disk blockdev.Device, stderr string, cause error) error {
	code := 0
	var exit *exec.ExitError
	if errors.As(cause, &exit) {
		code = exit.ExitCode() // -1: killed by a signal
	}
	kind, remedy := volume.KindInternal, "check the message of cryptsetup and the kernel log of this node"
	switch {
	case ctx.Err() != nil:
		kind, cause, stderr = volume.KindOf(ctx.Err()), fmt.Errorf("cryptsetup was stopped before it finished: %w", ctx.Err()), ""
		remedy = "Kubernetes retries this automatically; unlocking a key takes a second, so give the call more time if it stays so"
	case errors.Is(cause, exec.ErrNotFound):
		remedy = "use the image of the node plugin, or install cryptsetup in it"
	case code == exitNoPermission:
		kind, remedy = volume.KindPrecondition, "the passphrase opens no key slot of this volume: correct the secret that the StorageClass names"
	case code == exitNoMemory, code < 0:
		remedy = "unlocking a key takes memory (64 MiB for a volume formatted by this driver): raise the memory limit of the node plugin"
	case code == exitBusy:
		kind, remedy = volume.KindDeadline, "Kubernetes retries this automatically; if it stays so, find what uses the device on this node (lsblk, fuser)"
	case cause == nil:
		cause = errors.New("cryptsetup reported success")
	}
	if stderr != "" {
		cause = fmt.Errorf("%w: %s", cause, strings.ReplaceAll(stderr, DiskPath, disk.Path))
	}
	return volume.Errorf(kind, "%s: %w", what, cause).WithRemedy(remedy)
}

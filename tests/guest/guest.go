// Package guest runs tests and programs on a real Linux kernel of their own:
// User-Mode Linux, a kernel that is an ordinary process of the machine. It
// boots in about two seconds, needs neither virtualization nor privileges on
// the machine, and gives what the machine may lack: every capability, loop
// devices, device-mapper, filesystems that can be grown, broken and frozen.
//
// A test package runs in a guest when it says so:
//
//	func TestMain(m *testing.M) { os.Exit(guest.Main(m, guest.Options{})) }
//
// The guest sees the machine's /usr read-only (so all its tools work), the
// module's directory and the test binary at their own paths read-only, and
// nothing else; /tmp, /run and /var are in its memory and vanish with it. It
// has one CPU and no network but loopback.
package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// DefaultMemory is what a guest gets when Options do not say. The machine
// gives it page by page, as the guest touches it.
const DefaultMemory = 2 * volume.GiB

// insideEnv marks the environment of every command in a guest.
const insideEnv = "GROWVOL_GUEST"

// Inside tells whether this process runs in a guest.
func Inside() bool { return os.Getenv(insideEnv) == "1" }

// Options say what a guest is like. The zero value is a sensible guest.
type Options struct {
	// Memory of the guest, its tmpfs included. Zero means DefaultMemory.
	Memory volume.Size
	// Shares are directories of the machine that the guest sees too, besides
	// /usr.
	Shares []Share
	// Modules are kernel modules to load at start, besides loop and dm-mod.
	// Most others (dm-crypt, overlay, ciphers) the kernel loads by itself on
	// first use.
	Modules []string
	// Env is added to the command's environment, "NAME=value".
	Env []string
	// Timeout bounds a run from start to end; the guest is then killed. Zero
	// means none but the context's. Main bounds a run by -test.timeout
	// as well.
	Timeout time.Duration
	// Stdout and Stderr get the command's output as it is written. Nil means
	// the output is dropped by Run, and this process's own for Main.
	Stdout, Stderr io.Writer
	// Console gets what the guest's kernel logs, from its first line on. May
	// be nil: the last lines are part of every error anyway.
	Console io.Writer
}

// Share is a directory of the machine made visible in the guest.
type Share struct {
	// Host is the absolute path on the machine.
	Host string
	// Guest is the absolute path in the guest; empty means the same as Host.
	Guest string
	// Writable lets the guest write to the directory. What it wrote is on the
	// machine when Run returns.
	Writable bool
}

// Command is a program to run in a guest, as root.
type Command struct {
	// Path is looked up in the guest's PATH unless it has a slash. Its
	// directory must be in /usr or in a Share.
	Path string
	// Args are the arguments, without the program's name.
	Args []string
	// Env is the environment besides the guest's own (PATH, HOME, TMPDIR, …).
	Env []string
	// Dir is the working directory in the guest. Empty means "/tmp".
	Dir string
}

// SignalError says that the command was killed by a signal.
type SignalError struct{ Signal syscall.Signal }

func (e *SignalError) Error() string {
	return fmt.Sprintf("command in the guest was killed by signal %d (%v)", int(e.Signal), e.Signal)
}

// ErrKernel is in the chain of every error that means: the guest's kernel did
// not survive the run (panic), hung, or logged a defect of its own (BUG,
// WARNING, Oops, blocked task).
var ErrKernel = errors.New("guest kernel failed")

// ErrNotInstalled is in the chain of the error of a machine that lacks User-Mode
// Linux.
var ErrNotInstalled = errors.New("no User-Mode Linux on this machine: run tests/setup.sh as root (it installs Debian package user-mode-linux)")

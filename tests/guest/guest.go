// Package guest runs tests and programs on a real Linux kernel of their own:
// User-Mode Linux, a kernel that is an ordinary process of this machine. A guest
// boots in about two seconds and needs no virtualization and no privileges. It has
// what the machine may lack: every capability, loop devices, device-mapper, and
// filesystems that can be grown, damaged and frozen. (tests/vm has machines whose
// disks are plugged in and resized.)
//
// The tests of a package run in a guest if TestMain calls Main:
//
//	func TestMain(m *testing.M) { os.Exit(guest.Main(m, guest.Options{})) }
//
// Run runs any other program. The command growvol-guest does so from a shell.
//
// The guest sees the machine's /usr, with all its tools, the directory of the
// module and the test binary, read-only and at their own paths. /tmp, /run and /var
// are in the guest's memory and end with it. The guest has one CPU, and only a
// loopback network unless its Options have a Network.
package guest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// DefaultMemory is the memory of a guest whose Options have none. The machine
// allocates it page by page, when the guest uses it.
const DefaultMemory = 2 * volume.GiB

// insideVariable is the environment variable that every command in a guest has.
const insideVariable = "GROWVOL_GUEST"

// Inside reports whether this process runs in a guest.
func Inside() bool { return os.Getenv(insideVariable) == "1" }

// Options are the properties of a guest. The zero value is usable.
type Options struct {
	// Memory of the guest, its tmpfs included. 0 means DefaultMemory.
	Memory volume.Size
	// Shares are directories of the machine that the guest sees besides /usr.
	Shares []Share
	// Modules are kernel modules to load at boot, besides loop and dm-mod. The kernel
	// loads most others (dm-crypt, overlay, ciphers) at their first use.
	Modules []string
	// Network is the guest's network interface besides the loopback interface. It may be nil.
	Network *Network
	// Env is added to the command's environment, "NAME=value".
	Env []string
	// Timeout bounds a run from boot to end; the guest is then killed. 0 means no
	// timeout but the context's. Main also applies -test.timeout.
	Timeout time.Duration
	// Stdout and Stderr get the command's output while it runs. If they are nil, Run
	// discards the output, and Main uses those of this process.
	Stdout, Stderr io.Writer
	// Console gets the log of the guest's kernel, from the first line on. It may be
	// nil: every error contains the last lines.
	Console io.Writer
}

// Share is a directory of the machine that the guest sees.
type Share struct {
	// Host is the absolute path on the machine.
	Host string
	// Guest is the absolute path in the guest. Empty means the same as Host.
	Guest string
	// Writable permits the guest to write to the directory. The machine has what the
	// guest wrote when Run returns.
	Writable bool
}

// Network is the network interface vec0 of a guest.
type Network struct {
	// Port carries the Ethernet frames, one in each message: it is a datagram socket whose other end
	// the caller has. The caller closes both ends after Run has returned. Frames from the caller
	// must have complete checksums.
	Port *os.File
	// Address of the interface, with the length of the prefix, in IPv4.
	Address netip.Prefix
	// MAC is the Ethernet address of the interface.
	MAC net.HardwareAddr
}

// Command is a program to run in a guest, as root.
type Command struct {
	// Path is searched in the guest's PATH unless it contains a slash. Its directory
	// must be in /usr or in a Share.
	Path string
	// Args are the arguments, without the program's name.
	Args []string
	// Env is the environment besides the guest's own (PATH, HOME, TMPDIR, …).
	Env []string
	// Dir is the working directory in the guest. Empty means "/tmp".
	Dir string
}

// SignalError reports a command that was killed by a signal.
type SignalError struct{ Signal syscall.Signal }

func (e *SignalError) Error() string {
	return fmt.Sprintf("the command in the guest was killed by signal %d (%v)", int(e.Signal), e.Signal)
}

// ErrKernel is in the chain of an error if the guest's kernel panicked, hung, or
// logged a defect of its own (BUG, WARNING, Oops, blocked task).
var ErrKernel = errors.New("the guest's kernel failed")

// ErrNotInstalled is in the chain of an error if the machine has no User-Mode Linux.
var ErrNotInstalled = errors.New("this machine has no User-Mode Linux " +
	"(next step: run tests/setup.sh as root, which installs the Debian package user-mode-linux)")

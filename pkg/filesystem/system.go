package filesystem

import (
	"log/slog"
	"time"

	utilexec "k8s.io/utils/exec"

	"github.com/growvol/growvol/pkg/operation"
)

// Options configure a System; the zero value works.
type Options struct {
	// Log gets one line per change of a device. Default: no log.
	Log *slog.Logger
	// Exec starts mkfs, blkid, e2fsck and the growth tools, always with the caller's context.
	// Default: the programs of this machine.
	Exec utilexec.Interface
}

// System works on the filesystems of this machine; New returns one. It keeps no state
// between calls, except the locks of reads that hang. It is safe for concurrent use, but
// the caller must serialize the work on one device (operation.Locks).
type System struct {
	log           *slog.Logger
	exec          utilexec.Interface
	kernel        kernel
	now           func() time.Time
	calls         operation.Locks // held by reads that may hang; the key names what is read, with the device number
	retryInterval time.Duration   // the first wait while another growth is under way; it doubles
}

// New returns a System.
func New(o Options) *System {
	s := &System{
		log: o.Log, exec: o.Exec, kernel: linuxKernel{}, now: time.Now, retryInterval: 10 * time.Millisecond,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.exec == nil {
		s.exec = utilexec.New()
	}
	return s
}

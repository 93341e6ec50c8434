package filesystem

import (
	"log/slog"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	utilexec "k8s.io/utils/exec"
)

// Options are what a System may be given; the zero value works.
type Options struct {
	// Log gets one line per change made to a device. Default: no log.
	Log *slog.Logger
	// Exec starts mkfs, e2fsck and the growth tools. Its commands are always
	// bound to the caller's context. Default: the real one.
	Exec utilexec.Interface
}

// System works on the filesystems of this machine. It keeps no state between
// calls, but for looks that have not come back, and is safe for concurrent use; work on one and the same device must
// be serialized by the caller (operation.Locks).
type System struct {
	log           *slog.Logger
	exec          utilexec.Interface
	kernel        kernel
	now           func() time.Time
	calls         operation.Locks // looks that may hang, by aspect and device number
	retryInterval time.Duration   // first pause before a busy growth is tried again
}

// New makes a System.
func New(o Options) *System {
	s := &System{log: o.Log, exec: o.Exec, kernel: linuxKernel{}, now: time.Now, retryInterval: 10 * time.Millisecond}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.exec == nil {
		s.exec = utilexec.New()
	}
	return s
}

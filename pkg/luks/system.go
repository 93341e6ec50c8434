package luks

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// deviceSystem contains the operations on block devices that System needs. *blockdev.System
// implements it.
type deviceSystem interface {
	ByNumber(major, minor uint32) (blockdev.Device, error)
	// OpenFile opens the device for reading and compares its number with d.
	OpenFile(ctx context.Context, d blockdev.Device) (*os.File, error)
	Size(d blockdev.Device) (volume.Size, error)
	Stack(d blockdev.Device) ([]blockdev.Device, error)
	Holders(d blockdev.Device) ([]blockdev.Device, error)
}

// Options configure a System. The zero value is usable.
type Options struct {
	Log *slog.Logger // one line per change; default: no log
	// AllowDiscards opens new mappings so that they pass discards on to the disk: the storage system
	// can take unused blocks back, and sees which blocks are unused.
	AllowDiscards bool
}

// System makes LUKS2 headers and mappings. It keeps no state between calls and is safe for
// concurrent use. The caller serializes the calls for one volume (operation.Locks).
type System struct {
	devices     deviceSystem
	log         *slog.Logger
	run         runner
	mapper      deviceMapper
	nodes       string // directory of the device nodes by name: "/dev/mapper"
	now         func() time.Time
	discards    bool          // see Options.AllowDiscards
	busyTimeout time.Duration // how long Close waits for a program that has the mapping open
}

// defaultBusyTimeout is how long Close waits for a mapping that a program has open, but that
// is neither mounted nor below another device: udev and blkid open new devices for a moment.
const defaultBusyTimeout = 2 * time.Second

// New returns a System.
func New(o Options) *System {
	s := &System{
		devices: blockdev.New(), log: o.Log, run: runCryptsetup,
		mapper: linuxMapper{
			control: "/dev/mapper/control", class: "/sys/class/misc/device-mapper", blocks: "/sys/class/block",
		},
		nodes: "/dev/mapper", now: time.Now, busyTimeout: defaultBusyTimeout,
		discards: o.AllowDiscards,
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

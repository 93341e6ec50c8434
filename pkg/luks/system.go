package luks

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Devices is what this package needs of the block layer; *blockdev.System is
// the real one.
type Devices interface {
	ByNumber(major, minor uint32) (blockdev.Device, error)
	// File opens the device for reading and compares its number with d.
	File(ctx context.Context, d blockdev.Device) (*os.File, error)
	Size(d blockdev.Device) (volume.Size, error)
	Stack(d blockdev.Device) ([]blockdev.Device, error)
	Holders(d blockdev.Device) ([]blockdev.Device, error)
}

// Options are what a System may be given; the zero value works.
type Options struct {
	Devices Devices      // default: blockdev.New()
	Log     *slog.Logger // one line per change; default: no log
	Run     Runner       // starts cryptsetup; default: the real one
}

// System makes and drives LUKS2 mappings. It keeps no state between calls and
// is safe for concurrent use; work on one and the same volume must be
// serialized by the caller (operation.Locks).
type System struct {
	devices   Devices
	log       *slog.Logger
	run       Runner
	mapper    deviceMapper
	nodes     string // where device nodes by name are: "/dev/mapper"
	mountinfo string
	now       func() time.Time
	patience  time.Duration // for a mapping that somebody has open for a moment
}

// busyPatience is how long Close waits for a mapping that is open, but neither
// mounted nor below another device: udev and blkid look at new devices.
const busyPatience = 2 * time.Second

// New makes a System.
func New(o Options) *System {
	s := &System{
		devices: o.Devices, log: o.Log, run: o.Run,
		mapper: linuxMapper{control: "/dev/mapper/control", class: "/sys/class/misc/device-mapper", blocks: "/sys/class/block"},
		nodes:  "/dev/mapper", mountinfo: "/proc/self/mountinfo", now: time.Now, patience: busyPatience,
	}
	if s.devices == nil {
		s.devices = blockdev.New()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.run == nil {
		s.run = execute
	}
	return s
}

package filesystem

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// Measurement is the size of a mounted filesystem beside that of its device, and its
// health.
type Measurement struct {
	Type Type
	// Size is the size of the filesystem; zero when it has shut down and does not answer.
	Size volume.Size
	// DeviceSize is zero when the filesystem has shut down because the device was removed.
	DeviceSize volume.Size
	// FillsDevice reports that nothing is left to grow: the filesystem is as large as its
	// device and its format allow. It is also set for one that is larger than its device.
	FillsDevice bool
	// FormatLimit is the size at which the format ends, when the format cannot fill the
	// device; otherwise zero.
	FormatLimit volume.Size

	// IsShutDown reports that the filesystem has stopped after an error: every access fails.
	IsShutDown bool
	// BecameReadOnly reports that an error has made the filesystem read-only.
	BecameReadOnly bool
	// ErrorCount is how many errors ext has recorded, at least 1 when its error flag is set.
	// e2fsck resets it.
	ErrorCount uint32
	// Failure is the error of CheckHealth; nil for a healthy filesystem.
	Failure error
}

// Measure reads the size and the health of the filesystem of a device, mounted at
// mountPoint. It writes nothing and runs no program. A filesystem that has failed is not an
// error: the Measurement reports it.
//
// Kinds: Precondition (something else, or nothing, is mounted there), Internal (the device
// cannot be read), Deadline and Canceled (no answer before ctx ended). The read then continues
// until the kernel ends it, and no other read of the mount begins before.
func (s *System) Measure(ctx context.Context, dev Device, mountPoint string) (Measurement, error) {
	return awaitMountRead(ctx, s, dev, mountPoint, func() (Measurement, error) {
		size, sizeErr := sizeOf(dev) // fails when the disk was removed
		f, g, err := s.openGrower(dev, mountPoint)
		var current geometry
		if err == nil {
			defer f.close()
			if sizeErr != nil {
				return Measurement{}, sizeErr
			}
			current, err = g.readGeometry(ctx)
		}
		if isShutDown(err) {
			return s.measureShutDown(dev, mountPoint, size, err)
		}
		if err != nil {
			return Measurement{}, err
		}
		return f.measure(g, current, size), nil
	})
}

func (f *mountedFilesystem) measure(g grower, current geometry, device volume.Size) Measurement {
	goal := g.goal(device)
	m := Measurement{
		Type: current.fsType, Size: current.size(), DeviceSize: device, FillsDevice: current.blocks >= goal.full,
		IsShutDown: f.isListedAsShutDown(), BecameReadOnly: f.becameReadOnly(), Failure: g.checkHealth(),
	}
	if goal.limit != nil {
		m.FormatLimit = goal.limit.size
	}
	if e, ok := g.(*extGrower); ok && e.superblock.hasErrors() {
		m.ErrorCount = max(e.superblock.errorCount, 1)
	}
	return m
}

// measureShutDown returns the Measurement of a filesystem that has shut down, so that
// nothing can be read from it. The mount table proves that it is on the device.
func (s *System) measureShutDown(dev Device, mountPoint string, size volume.Size, cause error) (Measurement, error) {
	m, mounted, err := s.FindMount(mountPoint)
	if err != nil {
		return Measurement{}, err
	}
	if !mounted {
		return Measurement{}, notMountedError(mountPoint, nil)
	}
	isOnDevice, err := s.isOnDevice(m, dev.Number())
	if err != nil {
		return Measurement{}, volume.Errorf(volume.KindInternal, "cannot find the device %s of the mount at %s: %w",
			m.Source, mountPoint, err)
	}
	if !isOnDevice {
		return Measurement{}, foreignMountError(m, mountPoint, m.Device, dev)
	}
	return Measurement{Type: Type(m.FSType), DeviceSize: size, IsShutDown: true, Failure: cause}, nil
}

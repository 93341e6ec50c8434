package filesystem

import (
	"context"
	"errors"

	"github.com/growvol/growvol/pkg/volume"
)

// Measurement is what a mounted filesystem is: its size beside that of its
// device, and whether it can still be relied on.
type Measurement struct {
	Type Type
	// Size is that of the filesystem; zero when it has shut down and does not
	// tell any more.
	Size volume.Size
	// DeviceSize is the size of the device; zero when the filesystem has shut down
	// because the device was removed.
	DeviceSize volume.Size
	// FillsDevice says that growth has nothing to do: the filesystem is as large as
	// its device and its format allow, by the very rule that Grow goes by. It
	// also says so of one that is larger than its device.
	FillsDevice bool
	// FormatLimit is the size at which the format ends when the format cannot fill the
	// device; zero otherwise.
	FormatLimit volume.Size

	// IsShutDown: the filesystem has given up after an error; every access fails.
	IsShutDown bool
	// BecameReadOnly: it was mounted writable and has become read-only.
	BecameReadOnly bool
	// ErrorCount is how many errors ext has on record, one at least when its error
	// flag is set. e2fsck sets it back.
	ErrorCount uint32
	// Failure says the same with cause and remedy, as CheckHealth does; nil when the
	// filesystem is in good health.
	Failure error
}

// Measure reads size and condition of the filesystem of a device, mounted at
// mountPoint. It writes nothing and starts no program. A filesystem that has
// failed is no error: Measurement says so.
//
// Kinds: Precondition (something else is mounted there, or nothing), Internal
// (the device cannot be read), Deadline and Canceled: no answer within ctx. The
// look then goes on until the kernel lets go of it, and no other begins before.
func (s *System) Measure(ctx context.Context, dev Device, mountPoint string) (Measurement, error) {
	return awaitMountRead(ctx, s, dev, mountPoint, func() (Measurement, error) { return s.measure(ctx, dev, mountPoint) })
}

func (s *System) measure(ctx context.Context, dev Device, mountPoint string) (Measurement, error) {
	size, sizeErr := sizeOf(dev) // zero when the disk was pulled out
	t, err := s.openMounted(dev, mountPoint)
	if isShutDown(err) {
		return s.measureShutDown(dev, mountPoint, size, err)
	}
	if err != nil {
		return Measurement{}, err
	}
	defer t.close()
	if sizeErr != nil {
		return Measurement{}, sizeErr
	}
	g, err := t.newGrower()
	if err != nil {
		return Measurement{}, err
	}
	now, err := g.readGeometry(ctx)
	if isShutDown(err) {
		return s.measureShutDown(dev, mountPoint, size, err)
	}
	if err != nil {
		return Measurement{}, err
	}
	goal := g.goal(size)
	m := Measurement{
		Type: now.Type, Size: now.Size(), DeviceSize: size, FillsDevice: now.Blocks >= goal.full,
		IsShutDown: t.hasShutDown(), BecameReadOnly: t.becameReadOnly(), Failure: g.checkHealth(),
	}
	if goal.limit != nil {
		m.FormatLimit = goal.limit.size
	}
	if e, ok := g.(*extGrower); ok && e.superblock.hasErrors() {
		m.ErrorCount = max(e.superblock.errorCount, 1)
	}
	return m, nil
}

// measureShutDown is the measurement of a filesystem that answers nothing any
// more. That it is the device's, the mount table tells.
func (s *System) measureShutDown(dev Device, mountPoint string, size volume.Size, cause error) (Measurement, error) {
	m, mounted, err := s.FindMount(mountPoint)
	if err != nil {
		return Measurement{}, err
	}
	if !mounted {
		return Measurement{}, notMountedError(mountPoint, nil)
	}
	holds, err := s.isOnDevice(m, dev.Number())
	if err != nil {
		return Measurement{}, unreadableError(dev.Path(), err)
	}
	if !holds {
		return Measurement{}, foreignMountError(m, mountPoint, m.Device, dev)
	}
	return Measurement{Type: Type(m.FSType), DeviceSize: size, IsShutDown: true, Failure: cause}, nil
}

// shutDownError marks the errno of a filesystem that has shut down.
type shutDownError struct{ error }

func (err shutDownError) Unwrap() error { return err.error }

func isShutDown(err error) bool {
	var e shutDownError
	return errors.As(err, &e)
}

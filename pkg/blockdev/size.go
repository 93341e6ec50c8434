package blockdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/volume"
)

// Polling intervals of AwaitSize: most devices are there at once, the others
// wait for a cloud.
const (
	minPollInterval = 20 * time.Millisecond
	maxPollInterval = 500 * time.Millisecond
	rescanInterval  = 2 * time.Second
)

// Size reads the device's size by BLKGETSIZE64.
func (s *System) Size(d Device) (volume.Size, error) {
	h, err := s.Open(d)
	if err != nil {
		return 0, err
	}
	defer h.Close() //nolint:errcheck // only read from
	return h.Size()
}

// IsReadOnly reports whether the kernel refuses writes to the device (BLKROGET).
func (s *System) IsReadOnly(d Device) (bool, error) {
	h, err := s.Open(d)
	if err != nil {
		return false, err
	}
	defer h.Close() //nolint:errcheck // only read from
	return h.IsReadOnly()
}

// Rescan asks the kernel to read the size of a whole disk anew. offered is
// false where there is nothing to ask: virtio-blk, for one, is told by its
// hypervisor. That the kernel accepted says nothing of the size.
//
// A rescan that hangs in the kernel (a SCSI target that does not answer)
// outlives the context; Rescan does not.
func (s *System) Rescan(ctx context.Context, d Device) (offered bool, err error) {
	rescan := s.rescanFunc(d)
	if rescan == nil {
		return false, nil
	}
	if err := s.awaitCall(ctx, "rescan", d, rescan); err != nil {
		return true, volume.Wrap(fmt.Errorf("make the kernel read the size of %s anew: %w", d, err), "", "")
	}
	return true, nil
}

// rescanFunc returns how a rescan of d is made, nil if it is not.
func (s *System) rescanFunc(d Device) func() error {
	var files []string
	dir := s.sysfsDir(d)
	switch d.Kind {
	case KindLoop:
		return func() error { return s.rescanLoop(d) }
	case KindSCSI:
		files = globAll(filepath.Join(dir, "device", "rescan"))
	case KindNVMe:
		// With native multipathing the disk's parent is a subsystem that
		// has one controller per path.
		files = globAll(filepath.Join(dir, "device", "rescan_controller"), filepath.Join(dir, "device", "nvme*", "rescan_controller"))
	case KindRBD:
		if id, ok := rbdID(d.Name); ok {
			files = globAll(filepath.Join(s.sysfs, "bus", "rbd", "devices", id, "refresh"))
		}
	default:
	}
	if len(files) == 0 {
		return nil
	}
	return func() error {
		var errs []error
		for _, f := range files {
			errs = append(errs, trigger(f))
		}
		return errors.Join(errs...)
	}
}

func (s *System) rescanLoop(d Device) error {
	f, err := s.open(d, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return s.kernel.SetLoopCapacity(f)
}

func globAll(patterns ...string) []string {
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err == nil {
			files = append(files, found...)
		}
	}
	return files
}

func trigger(path string) error { return writeAttribute(path, "1\n") }

// writeAttribute writes to a sysfs file, which exists or is not created.
func writeAttribute(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// AwaitSize waits until a whole disk holds at least want bytes and returns
// what was read. A disk that is large enough already is left alone; else it is
// rescanned where that is possible, and again every two seconds: the
// growth may reach this machine after the first. A disk that is still
// too small when the context ends is an error of kind Deadline (Canceled if
// the caller went away); the caller keeps the time it needs to answer.
func (s *System) AwaitSize(ctx context.Context, d Device, want volume.Size) (volume.Size, error) {
	size, err := s.sizeContext(ctx, d)
	if err != nil || size >= want {
		return size, err
	}
	started := time.Now()
	var rescanErr error
	var rescanned time.Time
	offered := true
	for pause := minPollInterval; ; pause = min(2*pause, maxPollInterval) {
		if offered && time.Since(rescanned) >= rescanInterval {
			rescanned = time.Now()
			// A failed rescan is not the end: the kernel may hear of the
			// growth by itself. It is named if the wait ends in vain.
			offered, rescanErr = s.Rescan(ctx, d)
		} else if err := operation.Sleep(ctx, pause); err != nil {
			return size, tooSmallError(d, size, want, time.Since(started), offered, errors.Join(err, rescanErr))
		}
		now, err := s.sizeContext(ctx, d)
		if ctx.Err() != nil && err != nil {
			return size, tooSmallError(d, size, want, time.Since(started), offered, errors.Join(ctx.Err(), rescanErr))
		}
		if err != nil {
			return size, err
		}
		if size = now; size >= want {
			return size, nil
		}
	}
}

// sizeContext is Size within the time of ctx.
func (s *System) sizeContext(ctx context.Context, d Device) (volume.Size, error) {
	h, err := s.OpenContext(ctx, d)
	if err != nil {
		return 0, err
	}
	defer h.Close() //nolint:errcheck // only read from
	return h.Size() // the kernel knows it, and does not ask the device
}

// tooSmallError is the error for a device that did not grow in time.
func tooSmallError(d Device, size, want volume.Size, waited time.Duration, rescanned bool, cause error) error {
	how := "the kernel offers no rescan for it"
	if rescanned {
		how = "it was rescanned"
	}
	kind := volume.KindDeadline
	if errors.Is(cause, context.Canceled) {
		kind = volume.KindCanceled
	}
	return volume.Errorf(kind, "%s has %s after %s, not %s: the growth has not reached this node (%s): %w",
		d, size, waited.Round(time.Millisecond), want, how, cause).
		WithRemedy("it will be retried; if it lasts, check on the cloud's side that the server was told of the volume's new size")
}

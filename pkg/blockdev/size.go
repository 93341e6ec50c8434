package blockdev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// AwaitSize waits until a whole disk has at least want bytes, and returns the size it
// read. A smaller disk is rescanned where the kernel offers that, at once and every two
// seconds, because the growth may reach this machine later.
//
// Kinds: Deadline or Canceled when ctx ends before the disk has grown, with the last
// size that was read; Internal when the disk cannot be opened. The caller leaves
// itself time to answer (operation.WithMargin).
func (s *System) AwaitSize(ctx context.Context, d Device, want volume.Size) (volume.Size, error) {
	size, err := s.sizeContext(ctx, d)
	if err != nil || size >= want {
		return size, err
	}
	started := time.Now()
	var rescanErr error
	var rescanned time.Time
	offered := true
	for interval := minPollInterval; ; interval = min(2*interval, maxPollInterval) {
		if offered && time.Since(rescanned) >= rescanInterval {
			rescanned = time.Now()
			// After a failed rescan the kernel may still learn the size by itself. The
			// failure is reported only if the disk does not grow in time.
			offered, rescanErr = s.Rescan(ctx, d)
		} else if err := operation.Sleep(ctx, interval); err != nil {
			return size, tooSmallError(d, size, want, time.Since(started), offered, volume.Join(err, rescanErr))
		}
		now, err := s.sizeContext(ctx, d)
		if ctx.Err() != nil && err != nil {
			return size, tooSmallError(d, size, want, time.Since(started), offered, volume.Join(ctx.Err(), rescanErr))
		}
		if err != nil {
			return size, err
		}
		if size = now; size >= want {
			return size, nil
		}
	}
}

// The intervals of AwaitSize. Most devices have grown already, or after the first rescan;
// the others grow when the cloud tells the server.
const (
	minPollInterval = 20 * time.Millisecond
	maxPollInterval = 500 * time.Millisecond
	rescanInterval  = 2 * time.Second
)

// sizeContext is Size within the time of ctx. Only the open can hang: the kernel knows
// the size and does not ask the device.
func (s *System) sizeContext(ctx context.Context, d Device) (volume.Size, error) {
	h, err := s.OpenContext(ctx, d)
	if err != nil {
		return 0, err
	}
	defer h.Close() //nolint:errcheck // only read from
	return h.Size()
}

// tooSmallError is the error for a device that did not grow in time. cause contains the
// error of the context.
func tooSmallError(d Device, size, want volume.Size, waited time.Duration, rescanned bool, cause error) error {
	rescanNote := "the kernel offers no rescan for it"
	if rescanned {
		rescanNote = "it was rescanned"
	}
	kind := volume.KindDeadline
	if errors.Is(cause, context.Canceled) {
		kind = volume.KindCanceled
	}
	return volume.Errorf(kind, "%s has %s after %s, not the required %s: the growth has not reached this node (%s): %w",
		d, size, waited.Round(time.Millisecond), want, rescanNote, cause).
		WithRemedy("Kubernetes retries this automatically; " +
			"if the error persists, check that the storage system has announced the new size to this node")
}

// Rescan makes the kernel read the size of a whole disk again. offered is false if the
// kernel has no such request for the disk; the hypervisor of a virtio-blk disk, for
// example, announces the size by itself. Success does not mean that the size has changed.
//
// Rescan ends with ctx; a rescan that hangs in the kernel (a SCSI target that does not
// answer) continues. Kinds: Deadline or Canceled when ctx ended first; Internal.
func (s *System) Rescan(ctx context.Context, d Device) (offered bool, err error) {
	rescan := s.rescanFunc(d)
	if rescan == nil {
		return false, nil
	}
	if err := s.awaitCall(ctx, "rescan", d, rescan); err != nil {
		return true, volume.Wrap(fmt.Errorf("cannot make the kernel read the size of %s again: %w", d, err), "", "")
	}
	return true, nil
}

// rescanFunc returns the function that rescans d, or nil if the kernel offers none.
func (s *System) rescanFunc(d Device) func() error {
	var files []string
	dir := filepath.Join(s.sysfsDir(d), "device")
	switch d.Kind {
	case KindLoop:
		return func() error { return s.rescanLoop(d) }
	case KindSCSI:
		files = globAll(filepath.Join(dir, "rescan"))
	case KindNVMe:
		// With native multipathing the parent of the disk is a subsystem, which has one
		// controller per path.
		files = globAll(filepath.Join(dir, "rescan_controller"), filepath.Join(dir, "nvme*", "rescan_controller"))
	case KindRBD:
		if id, ok := rbdID(d.Name); ok {
			files = globAll(filepath.Join(s.rbdDir(id), "refresh"))
		}
	default:
	}
	if len(files) == 0 {
		return nil
	}
	return func() error { return writeAttributes(files, "1\n") }
}

func (s *System) rescanLoop(d Device) error {
	f, err := s.open(d, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	return s.kernel.SetLoopCapacity(f)
}

// globAll returns the files that match any of the patterns.
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

// writeAttributes writes text to each sysfs file, also after one of them has failed.
func writeAttributes(paths []string, text string) error {
	var err error
	for _, path := range paths {
		err = volume.Join(err, writeAttribute(path, text))
	}
	return err
}

// writeAttribute writes text to a sysfs file. It creates no file.
func writeAttribute(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return cmp.Or(err, f.Close())
}

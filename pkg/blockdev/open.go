package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Open opens the device for reading and checks that the opened node has the number of
// d: a node can outlive its device, and the kernel gives names of removed devices to new
// ones. Open can hang with the disk, because the kernel reads the partition table of
// some disks at each open; OpenContext does not. The error is of kind Internal.
func (s *System) Open(d Device) (*Handle, error) {
	f, err := s.open(d, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &Handle{Device: d, sys: s, file: f}, nil
}

// OpenContext is Open within the time of ctx. Kinds: Internal; Deadline or Canceled when
// ctx ended first.
func (s *System) OpenContext(ctx context.Context, d Device) (*Handle, error) {
	f, err := s.OpenFile(ctx, d)
	if err != nil {
		return nil, err
	}
	return &Handle{Device: d, sys: s, file: f}, nil
}

// OpenFile is OpenContext for a caller that needs the file itself: to lock it, or to
// let a program inherit it, so that no path can lead the program to another device. If
// the open returns after ctx has ended, OpenFile closes the file; until then, no other
// open of the device begins. Kinds: Internal; Deadline or Canceled when ctx ended first.
func (s *System) OpenFile(ctx context.Context, d Device) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	unlock, err := s.calls.Lock(ctx, "open "+d.Number().String())
	if err != nil {
		return nil, noAnswerError("open", d, ctx.Err())
	}
	opened := make(chan result)
	go func() {
		defer unlock()
		f, err := s.open(d, os.O_RDONLY)
		select {
		case opened <- result{f, err}:
		case <-ctx.Done():
			if err == nil {
				_ = f.Close() // only read from
			}
		}
	}()
	select {
	case r := <-opened:
		return r.file, r.err
	case <-ctx.Done():
		return nil, noAnswerError("open", d, ctx.Err())
	}
}

// open opens the device node of d and compares its number with that of d. Kinds:
// Deadline when O_EXCL is among the flags and something else has claimed the device;
// Internal otherwise.
func (s *System) open(d Device, flags int) (*os.File, error) {
	f, err := os.OpenFile(d.Path, flags, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, volume.Errorf(volume.KindInternal,
			"the device node of block device %s (%s) is missing: %w", d.Name, d.Number(), err).
			WithRemedy("check that the volume is still attached to this node, " +
				"and that the host's /dev (devtmpfs) is mounted into this container")
	case errors.Is(err, unix.EBUSY):
		return nil, volume.Errorf(volume.KindDeadline, "%s is in use by a mount or by another program: %w", d, err).
			WithRemedy(InUseRemedy(d.Path))
	case err != nil:
		return nil, volume.Errorf(volume.KindInternal, "cannot open %s: %w", d, err)
	}
	number, err := s.kernel.Fstat(f)
	if err == nil && number != d.Number() {
		err = fmt.Errorf("it leads to block device %s", number)
	}
	if err != nil {
		_ = f.Close() // only read from
		return nil, volume.Errorf(volume.KindInternal, "cannot open %s: the device node is not that of this device: %w", d,
			err).
			WithRemedy("check that the volume is still attached to this node")
	}
	return f, nil
}

// awaitCall makes a call that can hang with the device, within the time of ctx; see
// operation.AwaitExclusive. what names the call, as in "flush".
func (s *System) awaitCall(ctx context.Context, what string, d Device, call func() error) error {
	_, err := operation.AwaitExclusive(ctx, &s.calls, what+" "+d.Number().String(), func() (struct{}, error) {
		return struct{}{}, call()
	})
	if err != nil && err == ctx.Err() { //nolint:errorlint // all other errors have their message
		return noAnswerError(what, d, err)
	}
	return err
}

// noAnswerError is the error for a device that did not answer before the context ended.
func noAnswerError(what string, d Device, err error) error {
	return volume.Errorf(volume.KindOf(err), "cannot %s %s: the device does not answer: %w", what, d, err).
		WithRemedy("check the kernel log of this node, and that the volume is still attached to it")
}

// ReadStart reads the beginning of the device into p and returns the number of bytes
// read, which is less than len(p) on a smaller device.
func (s *System) ReadStart(d Device, p []byte) (int, error) {
	return withOpen(s, d, func(h *Handle) (int, error) {
		n, err := h.ReadAt(p, 0)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return n, err
	})
}

// Size reads the size of the device, in bytes. The error is of kind Internal.
func (s *System) Size(d Device) (volume.Size, error) { return withOpen(s, d, (*Handle).Size) }

// IsReadOnly reports whether the kernel refuses writes to the device. The error is of
// kind Internal.
func (s *System) IsReadOnly(d Device) (bool, error) { return withOpen(s, d, (*Handle).IsReadOnly) }

// withOpen opens the device, reads from it and closes it.
func withOpen[T any](s *System, d Device, read func(*Handle) (T, error)) (T, error) {
	h, err := s.Open(d)
	if err != nil {
		var zero T
		return zero, err
	}
	defer h.Close() //nolint:errcheck // only read from
	return read(h)
}

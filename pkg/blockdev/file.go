package blockdev

import (
	"context"
	"os"

	"github.com/growvol/growvol/pkg/volume"
)

// File opens the device for reading, checks that what it opened has the number
// of d, and returns the file itself: for a program that is to inherit the
// device, so that no path can lead it to another one, and for a lock on it.
// The open can hang with the disk; one that comes back after ctx has ended is
// closed. Kinds: Internal; Deadline or Canceled when ctx ended first.
func (s *System) File(ctx context.Context, d Device) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	opened, abandoned := make(chan result), make(chan struct{})
	go func() {
		f, err := s.open(d, os.O_RDONLY)
		select {
		case opened <- result{f, err}:
		case <-abandoned:
			if err == nil {
				_ = f.Close() // only read from
			}
		}
	}()
	select {
	case r := <-opened:
		return r.file, r.err
	case <-ctx.Done():
		close(abandoned)
		return nil, volume.Errorf(volume.KindOf(ctx.Err()), "open %s: the device does not answer: %w", d, ctx.Err()).
			WithRemedy("check the kernel log of this node and the connection of the volume")
	}
}

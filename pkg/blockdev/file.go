package blockdev

import (
	"context"
	"os"
)

// OpenFile opens the device for reading, checks that what it opened has the number
// of d, and returns the file itself: for a program that is to inherit the
// device, so that no path can lead it to another one, and for a lock on it.
//
// The open can hang with the disk. One that comes back after ctx has ended is
// closed, and until it comes back no other of the same device begins. Kinds:
// Internal; Deadline or Canceled when ctx ended first.
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

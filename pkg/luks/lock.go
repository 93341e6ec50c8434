package luks

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// lockPoll is how often a disk that is locked is tried.
const lockPoll = 50 * time.Millisecond

// lockDisk opens the disk and locks it (flock) until the file is closed, here
// and in each program that has inherited it. It waits, within ctx, for whoever
// has the lock: a cryptsetup that survived its node plugin, or udev. Kinds:
// those of Devices.File; Deadline or Canceled.
func (s *System) lockDisk(ctx context.Context, d blockdev.Device) (*os.File, error) {
	f, err := s.devices.File(ctx, d)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			closeQuietly(f)
			return nil, volume.Errorf(volume.Internal, "lock %s: %w", d, err)
		}
		if err := volume.Pause(ctx, lockPoll); err != nil {
			closeQuietly(f)
			return nil, volume.Errorf(volume.KindOf(err), "another program on this node works on %s and has not finished: %w", d, err).
				WithRemedy("Kubernetes retries this automatically; if it stays so, find the program with: fuser -v " + d.Path)
		}
	}
}

// closeQuietly closes what was only read from: a failure to close loses nothing.
func closeQuietly(f *os.File) { _ = f.Close() }

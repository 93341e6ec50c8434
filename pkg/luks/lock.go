package luks

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"

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
			s.dropTemporary(ctx, d)
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			closeQuietly(f)
			return nil, volume.Errorf(volume.KindInternal, "lock %s: %w", d, err)
		}
		if err := operation.Sleep(ctx, lockPoll); err != nil {
			closeQuietly(f)
			return nil, volume.Errorf(volume.KindOf(err), "another program on this node works on %s and has not finished: %w", d, err).
				WithRemedy("Kubernetes retries this automatically; if it stays so, find the program with: fuser -v " + d.Path)
		}
	}
}

// temporaryName begins the name of the mappings through which cryptsetup reads
// and writes key slots on a kernel that lends it no ciphers (AF_ALG).
const temporaryName = "temporary-cryptsetup-"

// dropTemporary removes what a killed cryptsetup has left on a disk: nobody
// else would, and the disk could not be disconnected. The caller has the lock of
// the disk, so no cryptsetup of this driver uses it; an administrator's has it
// open.
func (s *System) dropTemporary(ctx context.Context, d blockdev.Device) {
	holders, err := s.devices.Holders(d)
	for _, h := range holders {
		st, ok, statErr := s.mapper.statusOf(h.Major, h.Minor)
		if statErr != nil || !ok || !strings.HasPrefix(st.name, temporaryName) {
			continue
		}
		if err = errors.Join(err, s.mapper.remove(st.uuid), s.removeNode(st.name)); err == nil {
			s.log.WarnContext(ctx, "removed a mapping that a killed cryptsetup has left", "mapping", st.name, "device", d.Path)
		}
	}
	if err != nil {
		s.log.WarnContext(ctx, "what a killed cryptsetup has left on a disk is still there", "device", d.Path, "error", err)
	}
}

// closeQuietly closes what was only read from: a failure to close loses nothing.
func closeQuietly(f *os.File) { _ = f.Close() }

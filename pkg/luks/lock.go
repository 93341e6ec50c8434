package luks

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// lockPollInterval is the time between two tries to lock a disk.
const lockPollInterval = 50 * time.Millisecond

// lockDisk opens the disk and locks it (flock). The lock lasts until the file is closed here
// and in every program that inherited it. Until ctx ends, lockDisk waits for the holder of
// the lock: a cryptsetup that outlasted a killed node plugin, or udev. Kinds: those of
// blockdev.System.OpenFile, Deadline, Canceled, Internal.
func (s *System) lockDisk(ctx context.Context, d blockdev.Device) (*os.File, error) {
	f, err := s.devices.OpenFile(ctx, d)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			s.removeTemporaryMappings(ctx, d)
			return f, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			closeQuietly(f)
			return nil, volume.Errorf(volume.KindInternal, "cannot lock %s: %w", d, err)
		}
		if err := operation.Sleep(ctx, lockPollInterval); err != nil {
			closeQuietly(f)
			return nil, volume.Errorf(volume.KindOf(err), "another program on this node still works on %s: %w", d, err).
				WithRemedy(blockdev.InUseRemedy(d.Path))
		}
	}
}

// temporaryName is the beginning of the names of the mappings that cryptsetup makes to read
// and write key slots on a kernel without AF_ALG ciphers for programs.
const temporaryName = "temporary-cryptsetup-"

// removeTemporaryMappings removes the temporary mappings that a killed cryptsetup has left on
// a disk; they would prevent its disconnection for ever. The caller holds the lock of the
// disk, so no cryptsetup of this driver uses them. The kernel refuses to remove a mapping
// that another cryptsetup, such as an administrator's, has open.
func (s *System) removeTemporaryMappings(ctx context.Context, d blockdev.Device) {
	holders, err := s.devices.Holders(d)
	for _, h := range holders {
		st, ok, statErr := s.mapper.statusOf(h.Major, h.Minor)
		if statErr != nil || !ok || !strings.HasPrefix(st.name, temporaryName) {
			continue
		}
		if err = volume.Join(err, s.mapper.remove(st.uuid), s.removeNode(st.name)); err == nil {
			s.log.WarnContext(ctx, "removed a temporary mapping of a killed cryptsetup", "mapping", st.name, "device", d.Path)
		}
	}
	if err != nil {
		s.log.WarnContext(ctx, "cannot remove the temporary mappings of a killed cryptsetup",
			"device", d.Path, "error", err)
	}
}

// closeQuietly closes a file that was only read, so that a failure loses no data.
func closeQuietly(f *os.File) { _ = f.Close() }

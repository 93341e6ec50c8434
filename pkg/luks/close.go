package luks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// closePoll is how often a mapping that is open for a moment is tried.
const closePoll = 50 * time.Millisecond

// Close closes the mapping of a volume and returns once it was read back that
// it is gone; the kernel wipes the volume key. A volume without a mapping is a
// success. What is found under its name and was not made by this driver is left
// alone. Kinds: Precondition (mounted, below another device, or not ours),
// Deadline (some program has it open, or works on its disk), Canceled, Internal.
//
// Close waits for a cryptsetup that works on the mapping's disk. One that has not
// made the mapping yet is found on the volume's disk only: see CloseOn.
func (s *System) Close(ctx context.Context, id string) error {
	return s.closeLocked(ctx, MappingName(id), nil)
}

// CloseOn is Close for a caller that knows the disk of the volume: a cryptsetup
// that has survived its node plugin and is about to open the mapping on that
// disk is waited for, and its mapping closed.
func (s *System) CloseOn(ctx context.Context, id string, disk blockdev.Device) error {
	return s.closeLocked(ctx, MappingName(id), []blockdev.Device{disk})
}

// closeLocked closes a mapping while it has the lock of these disks and of the
// mapping's.
func (s *System) closeLocked(ctx context.Context, name string, disks []blockdev.Device) error {
	if below, ok := s.diskBelow(name); ok {
		disks = append(disks, below)
	}
	// In one order, so that no two callers wait for each other.
	slices.SortFunc(disks, func(a, b blockdev.Device) int {
		return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
	disks = slices.CompactFunc(disks, func(a, b blockdev.Device) bool { return a.Number() == b.Number() })
	var locked []*os.File
	defer func() {
		for _, f := range locked {
			closeQuietly(f)
		}
	}()
	for _, d := range disks {
		f, err := s.lockDisk(ctx, d)
		switch {
		case err == nil:
			locked = append(locked, f)
		case s.hasGone(d): // what works on it ends, and its mapping is to be closed
		default:
			return err
		}
	}
	return s.close(ctx, name)
}

// diskBelow returns the disk that a mapping rests on, if the kernel has it
// still. A mapping that cannot be read is reported when it is closed.
func (s *System) diskBelow(name string) (blockdev.Device, bool) {
	table, err := s.mapper.table(name)
	if err != nil {
		return blockdev.Device{}, false
	}
	d, err := s.devices.ByNumber(table.major, table.minor)
	return d, err == nil
}

// hasGone reports whether the kernel has the device no more.
func (s *System) hasGone(d blockdev.Device) bool {
	_, err := s.devices.ByNumber(d.Major, d.Minor)
	return isGone(err)
}

// close closes a mapping. The caller has the lock of its disk.
func (s *System) close(ctx context.Context, name string) error {
	until := s.now().Add(s.patience)
	for {
		st, ok, err := s.mapper.status(name)
		if err != nil {
			return mapperError("find the mapping", name, err)
		}
		if !ok {
			return s.removeNode(name)
		}
		if err := checkOwn(st); err != nil {
			return err
		}
		// The last user of a suspended mapping hangs.
		if err := s.resume(ctx, st); err != nil {
			return err
		}
		// A device node that is bound into a pod does not keep it open.
		if err := s.checkUnused(st); err != nil {
			return err
		}
		err = s.mapper.remove(st.uuid)
		switch {
		case err == nil:
			s.log.InfoContext(ctx, "closed a LUKS2 mapping", "mapping", name) // and read back that it is gone
		case errors.Is(err, unix.ENXIO): // somebody else has closed it
		case errors.Is(err, unix.EBUSY):
			if err := s.awaitUser(ctx, st, until); err != nil {
				return err
			}
		default:
			return mapperError("close the mapping", name, err)
		}
	}
}

// checkUnused returns an error that names what is mounted of the mapping or
// rests on it.
func (s *System) checkUnused(st dmStatus) error {
	holders, err := s.holders(st)
	if err != nil || len(holders) == 0 {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "the mapping %s (%d:%d) is in use: %s", st.name, st.major, st.minor, strings.Join(holders, ", ")).
		WithRemedy("unmount or remove what uses it first")
}

// awaitUser waits a moment for a program that has the mapping open.
func (s *System) awaitUser(ctx context.Context, st dmStatus, until time.Time) error {
	if err := operation.Sleep(ctx, closePoll); err != nil || s.now().After(until) {
		kind := volume.KindDeadline
		if err != nil {
			kind = volume.KindOf(err)
		}
		return volume.Errorf(kind, "the mapping %s (%d:%d) stays open: a program on this node, or a mount in another mount namespace, uses it (open count %d)",
			st.name, st.major, st.minor, st.openCount).
			WithRemedy(fmt.Sprintf("Kubernetes retries this automatically; find the user with: fuser -vm /dev/dm-%d; grep %d:%d /proc/*/mountinfo", st.minor, st.major, st.minor))
	}
	return nil
}

// holders names the mounts of a mapping that can be seen from here, and the
// devices that rest on it.
func (s *System) holders(st dmStatus) ([]string, error) {
	d, err := s.devices.ByNumber(st.major, st.minor)
	if isGone(err) {
		return nil, nil // gone meanwhile
	}
	if err != nil {
		return nil, err
	}
	mounts, err := mount.ParseMountInfo(s.mountinfo)
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "read the mount table: %w", err)
	}
	var found []string
	for _, m := range mounts {
		// btrfs has a number of its own; its source tells the device.
		if m.Major == int(st.major) && m.Minor == int(st.minor) || m.Source == d.Path || m.Source == filepath.Join(s.nodes, st.name) {
			found = append(found, "mounted at "+m.MountPoint)
		}
		if (m.FsType == "devtmpfs" || m.FsType == "tmpfs") && isNode(m.MountPoint, st) {
			found = append(found, "published as a raw device at "+m.MountPoint)
		}
	}
	above, err := s.devices.Holders(d)
	for _, h := range above {
		found = append(found, "below "+h.String())
	}
	return found, err
}

// isNode reports whether the path is a device node of the mapping.
func isNode(path string, st dmStatus) bool {
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil || info.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false
	}
	return uint64(info.Rdev) == unix.Mkdev(st.major, st.minor) //nolint:unconvert // 32 bits wide on some architectures
}

// removeNode removes the device node that cryptsetup has made by name. Left
// behind, it would lead to another device once the number is given again. A
// symbolic link is udev's business.
func (s *System) removeNode(name string) error {
	path := filepath.Join(s.nodes, name)
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeDevice != 0 {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return volume.Errorf(volume.KindInternal, "remove the device node of the closed mapping %s: %w", name, err)
	}
	return nil
}

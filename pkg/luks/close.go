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

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// closePollInterval is the time between two tries to remove a mapping that is open.
const closePollInterval = 50 * time.Millisecond

// Close closes the mapping of a volume, and returns after it has read back that the mapping no
// longer exists; the kernel wipes the volume key. It succeeds for a volume without a mapping.
// It does not change a device of that name that this driver did not make. Kinds:
// Precondition (mounted, below another device, or not made by this driver), Deadline (a
// program has the mapping open, or works on its disk), Canceled, Internal.
//
// Close waits for a cryptsetup that works on the mapping's disk. It cannot see one that has
// not made the mapping yet; CloseOn can.
func (s *System) Close(ctx context.Context, id string) error {
	return s.closeLocked(ctx, MappingName(id))
}

// CloseOn is Close for a caller that knows the disk of the volume. It also waits for a
// cryptsetup on that disk that has outlasted a killed node plugin and is about to open the
// mapping, and then closes the mapping.
func (s *System) CloseOn(ctx context.Context, id string, disk blockdev.Device) error {
	return s.closeLocked(ctx, MappingName(id), disk)
}

// closeLocked closes a mapping while it holds the locks of disks and of the mapping's own disk.
func (s *System) closeLocked(ctx context.Context, name string, disks ...blockdev.Device) error {
	if below, ok := s.diskBelow(name); ok {
		disks = append(disks, below)
	}
	// All callers lock in the same order, so that no two wait for each other.
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
		case s.isDeviceGone(d): // no program can work on it any longer
		default:
			return err
		}
	}
	return s.close(ctx, name)
}

// diskBelow returns the disk below a mapping, if it still exists. It ignores a mapping whose
// table cannot be read; close reports that.
func (s *System) diskBelow(name string) (blockdev.Device, bool) {
	table, err := s.mapper.table(name)
	if err != nil {
		return blockdev.Device{}, false
	}
	d, err := s.devices.ByNumber(table.major, table.minor)
	return d, err == nil
}

// isDeviceGone reports whether sysfs proves that the kernel no longer has the device.
func (s *System) isDeviceGone(d blockdev.Device) bool {
	_, err := s.devices.ByNumber(d.Major, d.Minor)
	return errors.Is(err, volume.ErrGone)
}

// close closes a mapping. The caller holds the lock of its disk.
func (s *System) close(ctx context.Context, name string) error {
	until := s.now().Add(s.busyTimeout)
	for {
		st, ok, err := s.mapper.status(name)
		if err != nil {
			return mapperError("cannot find the mapping", name, err)
		}
		if !ok {
			return s.removeNode(name)
		}
		if err := checkOwn(st); err != nil {
			return err
		}
		// A suspended mapping blocks its last user, and would block its removal too.
		if err := s.resume(ctx, st); err != nil {
			return err
		}
		// A device node in a pod does not make the kernel count the mapping as open.
		if err := s.checkUnused(st); err != nil {
			return err
		}
		err = s.mapper.remove(st.uuid)
		switch {
		case err == nil:
			s.log.InfoContext(ctx, "closed a LUKS2 mapping", "mapping", name) // the next round reads back that it is gone
		case errors.Is(err, unix.ENXIO): // another program has closed it
		case errors.Is(err, unix.EBUSY):
			if err := s.awaitUser(ctx, st, until); err != nil {
				return err
			}
		default:
			return mapperError("cannot close the mapping", name, err)
		}
	}
}

// checkUnused returns an error that names the mounts of the mapping and the devices on it.
func (s *System) checkUnused(st dmStatus) error {
	holders, err := s.holders(st)
	if err != nil || len(holders) == 0 {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "the mapping %s (%d:%d) is in use: %s",
		st.name, st.major, st.minor, strings.Join(holders, ", ")).
		WithRemedy(fmt.Sprintf("unmount these mounts and remove these devices, or find them with: lsblk /dev/dm-%d",
			st.minor))
}

// awaitUser waits one poll interval for a program that has the mapping open. It returns an
// error after the time until, or when ctx ends.
func (s *System) awaitUser(ctx context.Context, st dmStatus, until time.Time) error {
	if err := operation.Sleep(ctx, closePollInterval); err != nil || s.now().After(until) {
		kind := volume.KindDeadline
		if err != nil {
			kind = volume.KindOf(err)
		}
		return volume.Errorf(kind, "the mapping %s (%d:%d) is still open: a program on this node, "+
			"or a mount in another mount namespace, uses it (open count %d)", st.name, st.major, st.minor, st.openCount).
			WithRemedy(fmt.Sprintf("Kubernetes retries this automatically; if the error persists, find the user, on this node: "+
				"fuser -vm /dev/dm-%d; grep %d:%d /proc/*/mountinfo", st.minor, st.major, st.minor))
	}
	return nil
}

// holders describes the mounts of a mapping in this mount namespace, and the devices on it.
func (s *System) holders(st dmStatus) ([]string, error) {
	d, err := s.devices.ByNumber(st.major, st.minor)
	if errors.Is(err, volume.ErrGone) {
		return nil, nil // closed meanwhile
	}
	if err != nil {
		return nil, err
	}
	mounts, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "cannot read the mount table: %w", err)
	}
	var found []string
	for _, m := range mounts {
		// The mount table shows an anonymous number for btrfs, so its source is compared.
		if m.Major == int(st.major) && m.Minor == int(st.minor) ||
			m.Source == d.Path || m.Source == filepath.Join(s.nodes, st.name) {
			found = append(found, "mounted at "+m.MountPoint)
		}
		if m.FsType == "devtmpfs" || m.FsType == "tmpfs" {
			if number, err := blockdev.NumberOf(m.MountPoint); err == nil && number == d.Number() {
				found = append(found, "published as a raw device at "+m.MountPoint)
			}
		}
	}
	above, err := s.devices.Holders(d)
	for _, h := range above {
		found = append(found, "below "+h.String())
	}
	return found, err
}

// removeNode removes the device node by name that cryptsetup made, because the kernel may give
// its number to another device. A symbolic link belongs to udev and stays.
func (s *System) removeNode(name string) error {
	path := filepath.Join(s.nodes, name)
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeDevice != 0 {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return volume.Errorf(volume.KindInternal, "cannot remove the device node of the closed mapping %s: %w", name, err)
	}
	return nil
}

package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Disks returns the whole devices that the kernel has now, sorted by name: disks, loop
// devices and mappings (see Device.Kind). It leaves out a device that is removed during
// the call, and one that has no number and that no process can open (a path of an NVMe
// multipath device). The error is of kind Internal.
func (s *System) Disks() ([]Device, error) {
	dir := filepath.Join(s.sysfs, "block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "list the disks of this machine: %w", err).WithRemedy(remedySysfs)
	}
	disks := make([]Device, 0, len(entries))
	for _, e := range entries {
		d, err := s.deviceInDir(filepath.Join(dir, e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, volume.Errorf(volume.KindInternal, "list the disks of this machine: %w", err)
		default:
			disks = append(disks, d)
		}
	}
	return disks, nil
}

// ScanSCSI asks every SCSI host of the machine to look for new disks, and returns how
// many hosts there are. Success does not say that a host found a disk. ScanSCSI ends
// with ctx; a scan that hangs continues.
func (s *System) ScanSCSI(ctx context.Context) (hosts int, err error) {
	files := globAll(filepath.Join(s.sysfs, "class", "scsi_host", "*", "scan"))
	_, err = operation.AwaitCall(ctx, func() (struct{}, error) {
		return struct{}{}, writeAttributes(files, "- - -\n") // any channel, target and unit
	})
	if err != nil {
		err = volume.Wrap(fmt.Errorf("make the SCSI hosts look for disks: %w", err), "", "")
	}
	return len(files), err
}

// Flush writes out the data of the device that the kernel still holds in its cache, and
// then the cache of the device itself.
//
// Kinds: Precondition when a mount, in any mount namespace, or another device has
// claimed the device; Deadline when a program such as mkfs or e2fsck has, which will
// end, or when ctx ended first; Canceled; Internal. A flush that outlives ctx claims
// the device until it ends, and the next Flush waits for it.
func (s *System) Flush(ctx context.Context, d Device) error {
	return s.awaitCall(ctx, "flush", d, func() error {
		f, err := s.open(d, os.O_RDONLY|unix.O_EXCL)
		if errors.Is(err, unix.EBUSY) {
			return s.inUseError(d)
		}
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return volume.Errorf(volume.KindInternal, "flush %s: %w", d, err)
		}
		return nil
	})
}

// inUseError is the error for a device that something else has claimed. A mount and a
// mapping stay until a person acts (kind Precondition); a program ends (Deadline).
func (s *System) inUseError(d Device) error {
	stays := func(user string) error {
		return volume.Errorf(volume.KindPrecondition, "%s is still in use by %s", d, user).
			WithRemedy("delete the pods that use the volume; unmount what is mounted from it")
	}
	if holders, err := s.Holders(d); err == nil && len(holders) > 0 {
		return stays("other devices: " + listNames(holders))
	}
	parts, _ := s.Partitions(d) // on an error the disk alone is checked
	for _, p := range append([]Device{d}, parts...) {
		if fsType := s.MountedFilesystem(p); fsType != "" {
			return stays(fmt.Sprintf("a mount of the %s filesystem on %s", fsType, p.Name))
		}
	}
	return volume.Errorf(volume.KindDeadline,
		"%s is still in use by a program that has claimed it, or by a mount that the kernel does not show in /sys/fs", d).
		WithRemedy(InUseRemedy(d.Path))
}

// InUseRemedy returns the next step for a device that something else uses for now.
func InUseRemedy(path string) string {
	return fmt.Sprintf("no action needed: Kubernetes retries this automatically; "+
		"if it lasts, find what uses the device, on this node: lsblk %s; fuser -v %s", path, path)
}

// SetReadOnly makes the kernel refuse writes to the device, or allow them again
// (BLKROSET). It does not make a device writable that refuses writes itself; see
// IsReadOnly. The error is of kind Internal.
func (s *System) SetReadOnly(d Device, readOnly bool) error {
	f, err := s.open(d, os.O_RDONLY)
	if err != nil {
		return err
	}
	err = errors.Join(s.kernel.SetReadOnly(f, readOnly), f.Close())
	if err != nil {
		return volume.Errorf(volume.KindInternal, "set %s read-only=%t: %w", d, readOnly, err)
	}
	return nil
}

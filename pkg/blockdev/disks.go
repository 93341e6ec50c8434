package blockdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Disks returns the whole devices the kernel has at this moment, by name:
// disks, but also loop devices and mappings (see Device.Kind). One that goes
// while they are listed is left out, and so is one that cannot be opened by
// anybody (a path of an NVMe multipath device has no number).
func (s *System) Disks() ([]Device, error) {
	dir := filepath.Join(s.sysfs, "block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, volume.Errorf(volume.KindInternal, "list the disks of this machine: %w", err).
			WithRemedy("mount the host's /sys (sysfs) into this container")
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

// ScanSCSI asks every SCSI host of the machine to look for disks it does not
// know yet, and returns how many hosts there are. That they accepted says
// nothing of what they found. A host that hangs outlives the context; ScanSCSI
// does not.
func (s *System) ScanSCSI(ctx context.Context) (hosts int, err error) {
	files := globAll(filepath.Join(s.sysfs, "class", "scsi_host", "*", "scan"))
	_, err = operation.AwaitCall(ctx, func() (struct{}, error) {
		var errs []error
		for _, f := range files {
			errs = append(errs, writeAttribute(f, "- - -\n")) // any channel, target and unit
		}
		return struct{}{}, errors.Join(errs...)
	})
	if err != nil {
		err = volume.Wrap(fmt.Errorf("make the SCSI hosts look for disks: %w", err), "", "")
	}
	return len(files), err
}

// Flush writes out what the kernel still holds of the device's data, and has
// the device write out its own cache. Kinds: Precondition (a mount, in whatever
// mount namespace, or another device has claimed the device), Deadline (a program
// such as mkfs or e2fsck has, and will end).
// A flush that outlives ctx claims the device until it ends; the next Flush
// waits for it.
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

// inUseError is the error for a device that is in use. Programs end by themselves; a
// mount and a mapping stay.
func (s *System) inUseError(d Device) error {
	remain := func(by string) error {
		return volume.Errorf(volume.KindPrecondition, "%s is still in use by%s", d, by).
			WithRemedy("delete the pods that use the volume; unmount what is mounted from it")
	}
	if holders, err := s.Holders(d); err == nil && len(holders) > 0 {
		return remain(listNames(holders))
	}
	parts, _ := s.Partitions(d) // none are known: the disk itself is looked at
	for _, d := range append([]Device{d}, parts...) {
		if fsType := s.MountedFilesystem(d); fsType != "" {
			return remain(fmt.Sprintf(" a mount of the %s filesystem on %s", fsType, d.Name))
		}
	}
	return volume.Errorf(volume.KindDeadline, "%s is still in use by a program that has claimed it, or by a mount that the kernel does not show in /sys/fs", d).
		WithRemedy("Kubernetes retries this automatically; if it lasts, find what uses the device on this node: lsblk, fuser, lsof")
}

// SetReadOnly makes the kernel refuse writes to the device, or allow them
// again (BLKROSET). What the device itself refuses stays refused; see ReadOnly.
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

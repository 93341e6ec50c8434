package inspect

import (
	"context"
	"errors"
	"slices"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// FindMount returns the topmost mount at path. Reading a mount can hang with its filesystem: then
// FindMount returns an error of kind Deadline (or Canceled) when ctx ends, and the reading keeps
// the lease's locks, so that at most one reading of each volume hangs.
func (i Inspector) FindMount(
	ctx context.Context, lease *operation.Lease, path string,
) (m filesystem.Mount, mounted bool, err error) {
	type result struct {
		mount   filesystem.Mount
		mounted bool
	}
	r, err := operation.RunDetached(ctx, lease, "reading the mount at "+path, func() (result, error) {
		m, mounted, err := i.Filesystems.FindMount(path)
		return result{m, mounted}, err
	})
	if err != nil && !lease.IsHeld() {
		return filesystem.Mount{}, false, volume.Errorf(volume.KindOf(err),
			"the mount at %s does not answer: %w", path, ctx.Err()).
			WithRemedy("check on this node whether the device of the mount is gone (lsblk), " +
				"or its filesystem is frozen (journalctl --dmesg)")
	}
	return r.mount, r.mounted, err
}

// MountsOf returns the mounts of a device. It leaves out stale device nodes: they can show a disk
// that had the device's number before.
func (i Inspector) MountsOf(ctx context.Context, dev blockdev.Device) ([]filesystem.Mount, error) {
	mounts, err := i.Filesystems.MountsOf(ctx, dev.Number())
	return slices.DeleteFunc(mounts, filesystem.Mount.IsStaleDeviceNode), err
}

// hasBlockDevice reports whether m rests on a block device, as far as the mount table shows. The
// device number of btrfs is anonymous: only its source names the device.
func hasBlockDevice(m filesystem.Mount) bool {
	return m.IsDeviceNode() || m.Device.Major != 0 || m.FSType == string(filesystem.TypeBtrfs)
}

// deviceOfMount returns the block device of a mounted filesystem, or of a mounted device node. The
// error wraps volume.ErrGone when the kernel has no such device any more.
func (i Inspector) deviceOfMount(m filesystem.Mount) (blockdev.Device, error) {
	switch {
	case m.IsDeviceNode():
		return i.Devices.ByNumber(m.DeviceNode.Major, m.DeviceNode.Minor)
	case !hasBlockDevice(m):
		return blockdev.Device{}, volume.Errorf(volume.KindInternal,
			"the mount at %s (%s of %s) rests on no block device", m.MountPoint, m.FSType, m.Source)
	case m.Device.Major != 0:
		return i.Devices.ByNumber(m.Device.Major, m.Device.Minor)
	}
	dev, err := i.Devices.ByPath(m.Source)
	if err != nil {
		err = volume.Errorf(volume.KindOf(err),
			"cannot find the device of the mount at %s (%s of %s): %w", m.MountPoint, m.FSType, m.Source, err)
	}
	return dev, err
}

// deviceIfAny is deviceOfMount, but ok is false instead of an error for a mount without a device:
// it rests on none, its device is gone, or it is a stale device node.
func (i Inspector) deviceIfAny(m filesystem.Mount) (dev blockdev.Device, ok bool, err error) {
	if !hasBlockDevice(m) || m.IsStaleDeviceNode() {
		return blockdev.Device{}, false, nil
	}
	dev, err = i.deviceOfMount(m)
	if errors.Is(err, volume.ErrGone) {
		return blockdev.Device{}, false, nil
	}
	return dev, err == nil, err
}

// IsMountOf reports whether m is a mount of the filesystem on dev, or of a device node of dev.
func (i Inspector) IsMountOf(m filesystem.Mount, dev blockdev.Device) (bool, error) {
	shown, ok, err := i.deviceIfAny(m)
	return ok && shown.Number() == dev.Number(), err
}

// DeviceOnDisk returns the device that m shows. ok is false when that device neither is the disk at
// diskPath nor rests on that disk alone.
func (i Inspector) DeviceOnDisk(m filesystem.Mount, diskPath string) (dev blockdev.Device, ok bool, err error) {
	dev, ok, err = i.deviceIfAny(m)
	if err != nil || !ok {
		return blockdev.Device{}, false, err
	}
	layers, err := i.Devices.Stack(dev)
	switch {
	case volume.IsKind(err, volume.KindPrecondition): // it rests on several disks
		return blockdev.Device{}, false, nil
	case err != nil:
		return blockdev.Device{}, false, err
	}
	disk, err := i.Devices.ByPath(diskPath)
	return dev, err == nil && layers[len(layers)-1].Number() == disk.Number(), err
}

// CheckOwnMount returns an error unless m is proved to be a mount of this volume: unmounting
// another volume's mount would take that volume from its user. A mount is proved when the disk
// below it is verified to be the volume, or is provably gone, so that the mount has no user. A
// failed reading proves nothing; its error keeps the kind.
func (i Inspector) CheckOwnMount(ctx context.Context, id string, m filesystem.Mount) error {
	if m.IsStaleDeviceNode() {
		return nil
	}
	err := error(volume.Errorf(volume.KindPrecondition, "it rests on no block device"))
	if hasBlockDevice(m) {
		var dev blockdev.Device
		if dev, err = i.deviceOfMount(m); err == nil {
			_, err = i.verifiedLayers(ctx, id, dev)
		}
	}
	remedy := "find out which program mounted it there, then run on this node: umount " + m.MountPoint
	switch {
	case err == nil, errors.Is(err, volume.ErrGone):
		return nil
	case volume.IsKind(err, volume.KindPrecondition):
		return volume.Errorf(volume.KindPrecondition, "%s (%s) is mounted at %s, not this volume; it is left alone: %w",
			m.Source, m.FSType, m.MountPoint, err).
			WithRemedy(remedy)
	case volume.IsKind(err, volume.KindNotFound):
		return volume.Errorf(volume.KindPrecondition,
			"%s (%s) is mounted at %s, but no volume of this id is known; it is left alone: %w",
			m.Source, m.FSType, m.MountPoint, err).
			WithRemedy(remedy)
	}
	return volume.Errorf(volume.KindOf(err),
		"%s (%s) at %s is left mounted, because it cannot be verified to be this volume: %w",
		m.Source, m.FSType, m.MountPoint, err).
		WithRemedy(RemedyUnidentified)
}

// RemedyUnidentified is the next step when the device of a mount could not be identified.
const RemedyUnidentified = "Kubernetes retries this automatically; if the error persists, " +
	"compare the mounts and the disks of this node: findmnt, lsblk"

package inspect

import (
	"context"
	"slices"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// CheckUse returns an error of kind Precondition when the volume is in use in another way than
// requested (raw, mounted or encrypted). It reads the mounts of dev, of the layers below dev, and
// of the other devices on the disk: mkfs does not notice that a pod has the raw device open.
func (i Inspector) CheckUse(ctx context.Context, id string, dev blockdev.Device, block bool) error {
	layers, err := i.Devices.Stack(dev)
	if err != nil {
		return err
	}
	for n, layer := range layers {
		isAllowed := func(m filesystem.Mount) bool { return n == 0 && m.IsDeviceNode() == block }
		if err := i.CheckMounts(ctx, layer, isAllowed); err != nil {
			return err
		}
	}
	return i.checkAbove(ctx, id, layers)
}

// CheckMounts returns an error of kind Precondition when dev has a mount that is not allowed. If
// isAllowed is nil, no mount is allowed.
func (i Inspector) CheckMounts(
	ctx context.Context, dev blockdev.Device, isAllowed func(filesystem.Mount) bool,
) error {
	mounts, err := i.MountsOf(ctx, dev)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if isAllowed != nil && isAllowed(m) {
			continue
		}
		use := "mounted"
		if m.IsDeviceNode() {
			use = "published as a raw device"
		}
		return volume.Errorf(volume.KindPrecondition,
			"the volume is %s at %s, so it cannot be used in another way at the same time", use, m.MountPoint).
			WithRemedy("delete the pod that uses it there")
	}
	return nil
}

// checkAbove returns an error of kind Precondition when the disk is in use through a device that
// rests on it and is not one of the layers: a device that is mounted or published, or the mapping
// of this driver, in use or not. An unmounted mapping that another program has opened is allowed:
// the pod that has the raw device might have made it.
func (i Inspector) checkAbove(ctx context.Context, id string, layers []blockdev.Device) error {
	disk := layers[len(layers)-1]
	above, err := i.DevicesAbove(disk)
	if err != nil {
		return err
	}
	for _, dev := range above {
		if containsDevice(layers, dev) {
			continue
		}
		if err := i.CheckMounts(ctx, dev, nil); err != nil {
			return err
		}
	}
	m, mapped, err := i.FindMapping(ctx, id, disk)
	if err != nil || !mapped || containsDevice(layers, m.Device) {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"the volume is encrypted and open on this node as %s, so its disk %s cannot be used directly", m, disk.Path).
		WithRemedy("use the volume with " + volume.EncryptedKey + ": \"true\" in its volume context, " +
			"or first delete the pods that use it with encryption")
}

// DevicesAbove returns the devices that rest on d, directly or on one another.
func (i Inspector) DevicesAbove(d blockdev.Device) ([]blockdev.Device, error) {
	var above []blockdev.Device
	for next := []blockdev.Device{d}; len(next) > 0; next = next[1:] {
		holders, err := i.Devices.Holders(next[0])
		if err != nil {
			return nil, err
		}
		for _, h := range holders {
			if !containsDevice(above, h) {
				above, next = append(above, h), append(next, h)
			}
		}
	}
	return above, nil
}

func containsDevice(devices []blockdev.Device, d blockdev.Device) bool {
	return slices.ContainsFunc(devices, func(o blockdev.Device) bool { return o.Number() == d.Number() })
}

// FindMapping returns the mapping of a volume if it rests on this disk. A device of the mapping's
// name that this driver has not made does not count. FindMapping asks device mapper only if
// something rests on the disk, so that a node without encrypted volumes needs no device mapper.
func (i Inspector) FindMapping(
	ctx context.Context, id string, disk blockdev.Device,
) (m luks.Mapping, mapped bool, err error) {
	holders, err := i.Devices.Holders(disk)
	if err != nil || len(holders) == 0 {
		return luks.Mapping{}, false, err
	}
	m, mapped, err = i.Mappings.Find(ctx, id)
	if volume.IsKind(err, volume.KindPrecondition) {
		return luks.Mapping{}, false, nil
	}
	return m, err == nil && mapped && IsMappingOf(m, disk), err
}

// IsMappingOf reports whether m rests on disk. A mapping whose disk is gone rests on no disk.
func IsMappingOf(m luks.Mapping, disk blockdev.Device) bool {
	return !m.DiskGone && m.Disk.Number() == disk.Number()
}

package node

import (
	"context"
	"errors"
	"slices"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// devicesAbove returns the devices that rest on d, directly or on one another.
func (s *Server) devicesAbove(d blockdev.Device) ([]blockdev.Device, error) {
	var above []blockdev.Device
	for next := []blockdev.Device{d}; len(next) > 0; next = next[1:] {
		holders, err := s.opts.Devices.Holders(next[0])
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

// checkDevicesAbove refuses a volume whose disk is in use through a device that rests
// on it and is not among the layers of the device asked for: one that is
// mounted or published, or the mapping of this driver, in use or not. The
// mappings of others that nobody has mounted here are the business of the pod
// that has made them on its raw device.
func (s *Server) checkDevicesAbove(ctx context.Context, id string, layers []blockdev.Device) error {
	disk := layers[len(layers)-1]
	above, err := s.devicesAbove(disk)
	if err != nil {
		return err
	}
	for _, dev := range above {
		if containsDevice(layers, dev) {
			continue
		}
		if err := s.checkMounts(ctx, dev, nil); err != nil {
			return err
		}
	}
	m, mapped, err := s.findMapping(ctx, id, disk)
	if err != nil || !mapped || containsDevice(layers, m.Device) {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "the volume is encrypted and open on this node as %s, so its disk %s cannot be used directly",
		m, disk.Path).
		WithRemedy("use the volume with " + volume.EncryptedKey + ": \"true\" in its volume context, " +
			"or delete the pods that use it with encryption first")
}

// checkReadOnlyMode refuses a request that would make a connected disk read-only, or
// writable, against what uses it: Connect changes the disk at once, and a pod
// whose disk becomes read-only loses its writes.
func (st *stageCall) checkReadOnlyMode(ctx context.Context, path string, readOnly bool) error {
	disk, err := st.opts.Devices.ByPath(path)
	if errors.Is(err, volume.ErrGone) {
		return nil // Connect finds another, or fails
	}
	if err != nil {
		return err
	}
	is, err := st.opts.Devices.IsReadOnly(disk)
	if err != nil || is == readOnly {
		return err
	}
	inUse, err := st.findModeConflict(ctx, disk, readOnly)
	if err != nil || inUse == "" {
		return err
	}
	return volume.Errorf(volume.KindAlreadyExists, "already in use at %s with read-only=%t, asked for read-only=%t",
		inUse, !readOnly, readOnly).
		WithRemedy("delete the pods that use the volume on this node first")
}

// findModeConflict returns where a disk, or what rests on it, is in use in the
// other mode. A disk that is read-only although the volume was staged for
// writing is so by the storage, or the mount failed: neither is a conflict.
func (st *stageCall) findModeConflict(ctx context.Context, disk blockdev.Device, readOnly bool) (path string, err error) {
	if !readOnly {
		r, err := st.readRecord(st.id)
		if err != nil || !r.ReadOnly || st.readOnly() {
			return "", nil //nolint:nilerr // a record that is damaged is replaced
		}
	}
	above, err := st.devicesAbove(disk)
	if err != nil {
		return "", err
	}
	for _, dev := range append(above, disk) {
		mounts, err := st.mountsOf(ctx, dev)
		if err != nil {
			return "", err
		}
		for _, m := range mounts {
			if isWritable(m) == readOnly {
				return m.MountPoint, nil
			}
		}
	}
	return "", nil
}

// isWritable reports whether the device of a mount may be written to: through
// another bind mount too, if it is a filesystem.
func isWritable(m filesystem.Mount) bool {
	if m.IsDeviceNode() {
		return !m.IsReadOnly()
	}
	return !m.IsFilesystemReadOnly()
}

func containsDevice(devices []blockdev.Device, d blockdev.Device) bool {
	return slices.ContainsFunc(devices, func(o blockdev.Device) bool { return o.Number() == d.Number() })
}

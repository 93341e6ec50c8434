package node

import (
	"context"
	"errors"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// checkReadOnlyMode returns an error of kind AlreadyExists when the request makes a connected disk
// read-only, or writable, while the disk is in use in the other mode: Connect changes the disk at
// once, and a pod whose disk becomes read-only loses its writes.
func (st *stageCall) checkReadOnlyMode(ctx context.Context, path string, readOnly bool) error {
	disk, err := st.opts.Devices.ByPath(path)
	if errors.Is(err, volume.ErrGone) {
		return nil // Connect finds another disk, or fails
	}
	if err != nil {
		return err
	}
	isReadOnly, err := st.opts.Devices.IsReadOnly(disk)
	if err != nil || isReadOnly == readOnly {
		return err
	}
	inUse, err := st.findModeConflict(ctx, disk, readOnly)
	if err != nil || inUse == "" {
		return err
	}
	return volume.Errorf(volume.KindAlreadyExists,
		"already in use at %s with read-only=%t, but the request has read-only=%t",
		inUse, !readOnly, readOnly).
		WithRemedy("delete the pods that use the volume on this node")
}

// findModeConflict returns where a disk, or what rests on it, is in use in the other mode, or
// "" if there is no conflict. A disk that is read-only although the volume was staged for writing
// is no conflict: the storage has made it read-only, or the mount failed.
func (st *stageCall) findModeConflict(
	ctx context.Context, disk blockdev.Device, readOnly bool,
) (path string, err error) {
	if !readOnly {
		r, err := st.records.Read(st.id)
		if err != nil || !r.ReadOnly || st.isReadOnly() {
			return "", nil //nolint:nilerr // a damaged record is replaced
		}
	}
	above, err := st.inspector.DevicesAbove(disk)
	if err != nil {
		return "", err
	}
	for _, dev := range append(above, disk) {
		mounts, err := st.inspector.MountsOf(ctx, dev)
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

// isWritable reports whether the device of a mount can be written to: for a filesystem, through any
// of its mounts.
func isWritable(m filesystem.Mount) bool {
	if m.IsDeviceNode() {
		return !m.IsReadOnly()
	}
	return !m.IsFilesystemReadOnly()
}

package loopdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Verify implements volume.Connector: the device's backing file must be the volume's, by
// device and inode number. The volume on the device is proved gone (volume.ErrGone) when
// the kernel has no such device, when the device has no file, and when the device holds
// the deleted file of a volume of this id.
func (c *Connector) Verify(ctx context.Context, id, disk string) error {
	_, err := operation.AwaitCall(ctx, func() (struct{}, error) {
		_, err := c.dir.Load(volumedir.Volumes, id)
		switch {
		case err == nil:
			err = c.verify(id, disk)
		case volume.IsKind(err, volume.KindNotFound) && errors.Is(c.checkFile(id, disk), volume.ErrGone):
			err = volume.Errorf(volume.KindNotFound,
				"there is no volume %q, and %s no longer holds its data: %w", id, disk, volume.ErrGone)
		}
		return struct{}{}, err
	})
	return volume.Wrap(err, "verify", id)
}

// verify is Verify for a volume that exists.
func (c *Connector) verify(id, disk string) error {
	if err := c.checkFile(id, disk); err != nil {
		return err
	}
	status, err := c.loops.Status(disk)
	if err == nil && (status.Offset != 0 || status.Sizelimit != 0) {
		err = volume.Errorf(volume.KindPrecondition, "%s shows only a part of the volume (offset %d bytes, limit %d bytes)",
			disk, status.Offset, status.Sizelimit)
	}
	return err
}

// checkFile compares the device's backing file with the volume's file. The error wraps
// volume.ErrGone where it proves that the volume on the device is gone.
func (c *Connector) checkFile(id, disk string) error {
	d, err := c.devices.ByPath(disk)
	if err != nil {
		return err
	}
	if d.Kind != blockdev.KindLoop {
		return volume.Errorf(volume.KindPrecondition, "%s is not a loop device, so it is not the volume", d)
	}
	status, err := c.loops.Status(disk)
	switch {
	case errors.Is(err, unix.ENXIO):
		return volume.Errorf(volume.KindInternal, "%s has no file, so it holds no volume: %w", disk, volume.ErrGone)
	case err != nil:
		return fmt.Errorf("cannot read the status of %s: %w", disk, err)
	}
	path := c.dir.DataPath(volumedir.Volumes, id)
	var st unix.Stat_t
	err = unix.Stat(path, &st)
	if err == nil && losetup.IsFile(status, &st) {
		return nil
	}
	backing, _ := c.devices.Serial(d)
	switch {
	case volumedir.Volumes.IsID(id) && slices.Contains(losetup.DeletedPaths(c.deletableFiles(id)...), backing):
		return volume.Errorf(volume.KindPrecondition,
			"%s is not the volume: it holds an earlier volume of this id, which was deleted: %w",
			disk, volume.ErrGone)
	case err != nil:
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return volume.Errorf(volume.KindPrecondition, "%s is not the volume: its file is %s, not %s", disk, backing, path)
}

// deletableFiles returns the paths that the file of a volume of this id can have at its
// deletion: in pending if the driver deletes the volume, among the volumes if a person
// removes the files.
func (c *Connector) deletableFiles(id string) []string {
	return []string{
		c.dir.DataPath(volumedir.Volumes, id),
		filepath.Join(c.dir.PendingPath(id), volumedir.DataFile),
	}
}

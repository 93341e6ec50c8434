package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Verify implements volume.Connector: the device's backing file is the
// volume's, by device and inode number. What the device held is gone when the
// kernel has no such device, when the device has no file, and when it holds the
// deleted file of a volume of this id.
func (c *Connector) Verify(ctx context.Context, id, disk string) error {
	_, err := operation.AwaitCall(ctx, func() (struct{}, error) {
		_, err := c.store.load(volumes, id)
		switch {
		case err == nil:
			err = c.verify(id, disk)
		case missing(err) && errors.Is(c.identify(id, disk), volume.ErrGone):
			err = volume.Errorf(volume.KindNotFound, "there is no volume %q, and what %s held of it is gone: %w", id, disk, volume.ErrGone)
		}
		return struct{}{}, err
	})
	return volume.Wrap(err, "verify", id)
}

func (c *Connector) verify(id, disk string) error {
	if err := c.identify(id, disk); err != nil {
		return err
	}
	info, err := c.loops.status(disk)
	if err == nil && (info.Offset != 0 || info.Sizelimit != 0) {
		err = volume.Errorf(volume.KindPrecondition, "%s shows a part of the volume only (offset %d, limit %d)", disk, info.Offset, info.Sizelimit)
	}
	return err
}

// identify compares the device's file with the volume's. The error wraps
// volume.ErrGone where it proves that what the device held is gone.
func (c *Connector) identify(id, disk string) error {
	d, err := c.blocks.ByPath(disk)
	if err != nil {
		return err
	}
	if d.Kind != blockdev.KindLoop {
		return volume.Errorf(volume.KindPrecondition, "%s is not a loop device, and so is not the volume", d)
	}
	info, err := c.loops.status(disk)
	switch {
	case errors.Is(err, unix.ENXIO):
		return volume.Errorf(volume.KindInternal, "%s has no file any more: it is no volume at all: %w", disk, volume.ErrGone)
	case err != nil:
		return fmt.Errorf("read the status of %s: %w", disk, err)
	}
	path := c.store.data(volumes, id)
	var st unix.Stat_t
	err = unix.Stat(path, &st)
	if err == nil && sameFile(info, &st) {
		return nil
	}
	backing, _ := c.blocks.Serial(d)
	switch {
	case volumes.valid(id) && slices.Contains(deletedPaths(c.files(id)...), backing):
		return volume.Errorf(volume.KindPrecondition, "%s is not the volume but what is left of an earlier one of this id, which was deleted: %w", disk, volume.ErrGone)
	case err != nil:
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return volume.Errorf(volume.KindPrecondition, "%s is not the volume: its file is %s, not %s", disk, backing, path)
}

// files returns the paths that the file of a volume of this id can have had when
// it was deleted: its place in pending if the driver deleted it, that among the
// volumes if somebody did so by force.
func (c *Connector) files(id string) []string {
	return []string{c.store.data(volumes, id), filepath.Join(c.store.pending(id), dataFile)}
}

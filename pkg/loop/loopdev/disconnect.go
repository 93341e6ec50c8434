package loopdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Disconnect implements volume.Connector: it flushes the volume's loop device and removes
// the file from it.
func (c *Connector) Disconnect(ctx context.Context, id string) (err error) {
	defer func() { err = volume.Wrap(err, "disconnect", id) }()
	if !volumedir.Volumes.IsID(id) {
		return nil
	}
	lease, err := c.operations.LockDevice(ctx, id)
	if err != nil {
		return err
	}
	defer lease.Release()
	_, unlock, err := c.dir.Lock(ctx, volumedir.Volumes, id)
	isDeleted := volume.IsKind(err, volume.KindNotFound)
	switch {
	case err == nil:
		lease.Add(unlock)
	case !isDeleted:
		return err
	}
	release := func(ctx context.Context) (struct{}, error) { return struct{}{}, c.releaseAll(ctx, id, isDeleted) }
	_, err = operation.RunOnDevice(ctx, lease, "flushing and detaching the volume's loop device", release)
	return err
}

// releaseAll releases the devices of the volume, or, if the volume is deleted, those of
// the deleted volume.
func (c *Connector) releaseAll(ctx context.Context, id string, isDeleted bool) (err error) {
	var devices []losetup.Device
	if isDeleted {
		devices, err = c.loops.FindDeleted(c.deletableFiles(id)...)
	} else {
		c.releaseDeleted(ctx, id)
		devices, err = c.loops.Find(c.dir.DataPath(volumedir.Volumes, id))
	}
	if err != nil {
		return err
	}
	for _, d := range devices {
		if err := c.release(ctx, d); err != nil {
			return err
		}
		c.log.InfoContext(ctx, "disconnected a volume", "volume", id, "device", d.Path)
	}
	return nil
}

// releaseDeleted releases the devices of a deleted volume that had the same name, and so
// the same id, as the present one. Those devices hold the inode of the deleted volume, so
// nothing takes them for the present one. A failure is only logged: it does not concern
// the present volume.
func (c *Connector) releaseDeleted(ctx context.Context, id string) {
	devices, err := c.loops.FindDeleted(c.deletableFiles(id)...)
	for _, d := range devices {
		err = volume.Join(err, c.release(ctx, d))
	}
	if err != nil {
		c.log.WarnContext(ctx, "cannot release a loop device of a deleted volume of this id", "volume", id, "error", err)
	}
}

// release flushes a device and removes its file. LOOP_CLR_FD on a device that another
// process has open succeeds but has no effect until the last close. So release first
// claims the device (O_EXCL), which fails while a mount or mapping anywhere on the
// machine uses it, and afterwards reads the status again. The kernel cannot be
// interrupted in any of these steps: see operation.RunOnDevice.
func (c *Connector) release(ctx context.Context, d losetup.Device) error {
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		dev, err := c.devices.ByPath(d.Path)
		if err != nil {
			return err
		}
		return c.devices.InUseError(dev)
	case errors.Is(err, unix.ENXIO):
		return nil // another process released it
	case err != nil:
		return err
	}
	err = volume.Join(c.flushAndClear(f, d), f.Close())
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot detach %s: %w", d.Path, err)
	}
	return c.awaitRelease(ctx, d)
}

// flushAndClear flushes and clears a claimed device. The error is ENXIO if the device no
// longer has the file by which it was found.
func (c *Connector) flushAndClear(f *os.File, d losetup.Device) error {
	status, err := c.loops.Kernel.Status(f)
	if err != nil {
		return err
	}
	if !d.HasFile(status) {
		return unix.ENXIO
	}
	if err := c.loops.Kernel.Sync(f); err != nil {
		return err
	}
	return losetup.Clear(f)
}

// awaitRelease waits until the device has lost its file. Kind Deadline: a program
// still has the device open after openerGrace, and closes it at some time.
func (c *Connector) awaitRelease(ctx context.Context, d losetup.Device) error {
	ctx, cancel := context.WithTimeout(ctx, openerGrace)
	defer cancel()
	for interval := minReleasePoll; ; interval *= 2 {
		status, err := c.loops.Status(d.Path)
		if errors.Is(err, unix.ENXIO) || err == nil && !d.HasFile(status) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read whether %s is detached: %w", d.Path, err)
		}
		if operation.Sleep(ctx, interval) != nil {
			return volume.Errorf(volume.KindDeadline,
				"a process still has %s open: the kernel detaches the device when the process closes it",
				d.Path).
				WithRemedy(blockdev.InUseRemedy(d.Path) + "; or delete the pods that use the volume")
		}
	}
}

// Bounds of the wait until a device has lost its file: udev and blkid have a device open
// for moments, a pod for long.
const (
	minReleasePoll = 10 * time.Millisecond
	openerGrace    = 3 * time.Second
)

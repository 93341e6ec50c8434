package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Disconnect implements volume.Connector.
func (c *Connector) Disconnect(ctx context.Context, id string) error {
	return volume.Wrap(c.disconnect(ctx, id), "disconnect", id)
}

func (c *Connector) disconnect(ctx context.Context, id string) error {
	if !volumes.valid(id) {
		return nil
	}
	l, err := c.begin(ctx, id)
	if err != nil {
		return err
	}
	defer l.Release()
	_, unlock, err := c.store.lock(ctx, volumes, id)
	deleted := missing(err)
	switch {
	case err == nil:
		l.Add(unlock)
	case !deleted:
		return err
	}
	_, err = outlive(ctx, l, "flushing and detaching the volume's loop device", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.releaseAll(ctx, id, deleted)
	})
	return err
}

// releaseAll frees the devices of the volume, or those of a deleted volume of
// this id.
func (c *Connector) releaseAll(ctx context.Context, id string, deleted bool) (err error) {
	var devices []device
	if deleted {
		devices, err = c.orphans(id)
	} else {
		c.releaseOrphans(ctx, id)
		devices, err = c.loops.bound(c.store.data(volumes, id))
	}
	if err != nil {
		return err
	}
	for _, d := range devices {
		if err := c.release(ctx, d); err != nil {
			return err
		}
		c.log.InfoContext(ctx, "disconnected a volume", "volume", id, "device", d.path)
	}
	return nil
}

// orphans returns the devices of a volume of this id that was deleted. There
// is no inode to compare with; the kernel shows the path that the file had when
// it was unlinked.
func (c *Connector) orphans(id string) ([]device, error) { return c.loops.orphans(c.files(id)...) }

// releaseOrphans frees the devices of an earlier volume of this id, for ids
// come back with their names. They hold the earlier volume's inode, so that
// they are never taken for the present one; if they are still in use, that is
// not the present one's business.
func (c *Connector) releaseOrphans(ctx context.Context, id string) {
	devices, err := c.orphans(id)
	for _, d := range devices {
		err = errors.Join(err, c.release(ctx, d))
	}
	if err != nil {
		c.log.WarnContext(ctx, "could not free a loop device of an earlier volume of this id", "volume", id, "error", err)
	}
}

// Waiting for a device to let its file go: some programs (udev, blkid) have it
// open for moments, a pod for long.
const (
	firstReleasePoll = 10 * time.Millisecond
	openerGrace      = 3 * time.Second
)

// release flushes a device and takes its file away. LOOP_CLR_FD on a device
// that somebody has open succeeds and does nothing until the last close, so
// the device is first claimed, which a mount or mapping anywhere on the machine
// prevents, and read again afterwards. The kernel cannot be interrupted in
// any of this: see outlive.
func (c *Connector) release(ctx context.Context, d device) error {
	f, err := os.OpenFile(d.path, os.O_RDONLY|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return c.inUse(d)
	case errors.Is(err, unix.ENXIO):
		return nil // released meanwhile
	case err != nil:
		return err
	}
	err = c.stillBound(f, d)
	if err == nil {
		err = c.loops.kernel.Sync(f)
	}
	if err == nil {
		err = os.NewSyscallError("ioctl LOOP_CLR_FD", c.loops.kernel.ClearFile(f))
	}
	err = errors.Join(err, f.Close())
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", d.path, err)
	}
	return c.awaitRelease(ctx, d)
}

// stillBound checks, on a device that is claimed, that it still has the file
// it was found by. ENXIO: it has none, or another's.
func (c *Connector) stillBound(f *os.File, d device) error {
	info, err := c.loops.kernel.Status(f)
	if err == nil && !d.has(info) {
		return unix.ENXIO
	}
	return err
}

// awaitRelease waits until the device has lost its file. The error is of kind
// Deadline when a program has the device open for longer than a moment: it will
// close the device some time.
func (c *Connector) awaitRelease(ctx context.Context, d device) error {
	ctx, cancel := context.WithTimeout(ctx, openerGrace)
	defer cancel()
	for pause := firstReleasePoll; ; pause *= 2 {
		info, err := c.loops.status(d.path)
		if errors.Is(err, unix.ENXIO) || err == nil && !d.has(info) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read whether %s is detached: %w", d.path, err)
		}
		if operation.Sleep(ctx, pause) != nil {
			return volume.Errorf(volume.KindDeadline, "a process still has %s open; the kernel detaches it when it is closed", d.path).
				WithRemedy("Kubernetes retries this automatically; if it lasts, delete the pods that use the volume, or find the process on this node: fuser, lsof")
		}
	}
}

// inUse is the error for a device that somebody has claimed. Mounts and mappings
// stay until a person acts (kind Precondition); a program such as mkfs ends by
// itself (Deadline).
func (c *Connector) inUse(d device) error {
	users := c.users(d)
	if len(users) == 0 {
		return volume.Errorf(volume.KindDeadline, "%s is still in use by a program that has claimed it, or by a mount that is not visible from here", d.path).
			WithRemedy("Kubernetes retries this automatically; if it lasts, find what uses the device on this node: lsblk, fuser, lsof")
	}
	return volume.Errorf(volume.KindPrecondition, "%s is still in use: %s", d.path, strings.Join(users, ", ")).
		WithRemedy("delete the pods that use the volume; unmount what is mounted from it")
}

// users names the mappings and mounts that hold a device or its partitions. Mounts
// in other mount namespaces are known by their filesystem only.
func (c *Connector) users(d device) []string {
	dev, err := c.blocks.ByPath(d.path)
	if err != nil {
		return nil
	}
	var list []string
	if holders, err := c.blocks.Holders(dev); err == nil {
		for _, h := range holders {
			list = append(list, "by "+h.Path)
		}
	}
	parts, _ := c.blocks.Partitions(dev) // none are known: the device itself is looked at
	for _, dev := range append([]blockdev.Device{dev}, parts...) {
		mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			return m.Major != int(dev.Major) || m.Minor != int(dev.Minor), false
		})
		if err == nil {
			for _, m := range mounts {
				list = append(list, "mounted at "+m.Mountpoint)
			}
		}
		if fsType := c.blocks.MountedFilesystem(dev); fsType != "" && len(mounts) == 0 {
			list = append(list, fmt.Sprintf("by a mount of the %s filesystem on %s", fsType, dev.Name))
		}
	}
	return list
}

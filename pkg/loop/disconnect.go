package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

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
	var devices []device
	_, unlock, err := c.store.lock(ctx, volumes, id)
	switch {
	case err == nil:
		defer unlock()
		c.releaseOrphans(ctx, id)
		devices, err = c.loops.bound(c.store.data(volumes, id))
	case missing(err):
		devices, err = c.orphans(id)
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
// is no inode to compare with. The kernel shows the path that the file had when
// it was unlinked: its place in pending if the driver deleted it, that among
// the volumes if somebody did so by force.
func (c *Connector) orphans(id string) ([]device, error) {
	return c.loops.orphans(c.store.data(volumes, id), filepath.Join(c.store.pending(id), dataFile))
}

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

// Waiting for a device to let its file go: a stray opener (udev, blkid) has
// it for moments, a pod for long.
const (
	firstLook = 10 * time.Millisecond
	straggler = 3 * time.Second
)

// release flushes a device and takes its file away. LOOP_CLR_FD on a device
// that somebody has open succeeds and does nothing until the last close, so
// the device is first claimed, which a mount or mapping anywhere on the machine
// prevents, and read again afterwards.
func (c *Connector) release(ctx context.Context, d device) error {
	f, err := os.OpenFile(d.path, os.O_RDONLY|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return volume.Errorf(volume.Precondition, "%s is still in use%s", d.path, c.users(d)).
			WithRemedy("delete the pods that use the volume; unmount what is mounted from it")
	case errors.Is(err, unix.ENXIO):
		return nil // released meanwhile
	case err != nil:
		return err
	}
	err = c.stillBound(f, d)
	if err == nil {
		err = f.Sync()
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

// awaitRelease waits until the device has lost its file.
func (c *Connector) awaitRelease(ctx context.Context, d device) error {
	limit := time.NewTimer(straggler)
	defer limit.Stop()
	for pause := firstLook; ; pause *= 2 {
		info, err := c.loops.status(d.path)
		if errors.Is(err, unix.ENXIO) || err == nil && !d.has(info) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read whether %s is detached: %w", d.path, err)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
			continue
		case <-limit.C:
		case <-ctx.Done():
		}
		t.Stop()
		return volume.Errorf(volume.Precondition, "a process still has %s open; the kernel will detach it when it is closed", d.path).
			WithRemedy("delete the pods that use the volume")
	}
}

// users names what holds a device, as far as this process can see it.
func (c *Connector) users(d device) string {
	dev, err := c.blocks.ByPath(d.path)
	if err != nil {
		return ""
	}
	var list []string
	holders, err := c.blocks.Holders(dev)
	if err == nil {
		for _, h := range holders {
			list = append(list, "by "+h.Path)
		}
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Major != int(dev.Major) || m.Minor != int(dev.Minor), false
	})
	if err == nil {
		for _, m := range mounts {
			list = append(list, "mounted at "+m.Mountpoint)
		}
	}
	if len(list) == 0 {
		return ", by a mount or mapping that is not visible from here"
	}
	return ": " + strings.Join(list, ", ")
}

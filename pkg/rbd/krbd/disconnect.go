package krbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Disconnect implements volume.Connector: it writes out what the kernel has cached, unmaps the
// image and removes the record. A mapping that another volume of this node has too stays. It never
// unmaps a device in use: for that there is only a rescue by hand (docs/reference.md).
func (c *Connector) Disconnect(ctx context.Context, id string) (err error) {
	defer func() { err = volume.Wrap(err, "disconnect", id) }()
	lease, err := c.operations.LockDevice(ctx, id)
	if err != nil {
		return err
	}
	defer lease.Release()
	rec, exists, err := c.records.read(id)
	if err != nil {
		return err
	}
	if rec.Image != "" {
		image, err := c.images.LockDevice(ctx, rec.Image)
		if err != nil {
			return err
		}
		lease.Add(image.Release)
	}
	unmapped, err := operation.RunOnDevice(ctx, lease, "unmapping the volume's image",
		func(ctx context.Context) (bool, error) { return c.unmapVolume(ctx, id) })
	if err != nil || !exists && !unmapped {
		return err
	}
	return c.recordUnmapped(ctx, id)
}

// recordUnmapped passes the end of the mapping to the recorder, and removes the record.
func (c *Connector) recordUnmapped(ctx context.Context, id string) error {
	if c.opts.Recorder != nil {
		if err := c.opts.Recorder.Unmapped(ctx, id); err != nil {
			return volume.Errorf(volume.KindUnavailable, "the image is unmapped, but this could not be recorded: %w", err).
				WithRemedy("no action needed: Kubernetes retries this automatically")
		}
	}
	return c.records.remove(id)
}

// unmapVolume unmaps the mapping of the volume. It reports whether there was one.
func (c *Connector) unmapVolume(ctx context.Context, id string) (bool, error) {
	m, found, err := c.find(id)
	if err != nil || !found {
		return false, err
	}
	others, err := c.records.others(id, m.identity)
	if err != nil {
		return false, err
	}
	if len(others) > 0 {
		c.log.InfoContext(ctx, "keeping the mapping of an image for another volume",
			"volume", id, "device", m.String(), "other_volume", others[0])
		return true, nil
	}
	if err := c.unmap(ctx, m); err != nil {
		return false, err
	}
	c.log.InfoContext(ctx, "unmapped an image", "volume", id, "device", m.String(), "client", m.client)
	return true, nil
}

// Bounds of the wait for a device to be closed: udev and blkid have a device open for moments.
const (
	minUnmapPoll = 10 * time.Millisecond
	openerGrace  = 3 * time.Second
)

// unmap flushes and removes a mapping, and returns once the kernel no longer shows it. Kinds:
// Precondition, Deadline (see blockdev.System.InUseError), Internal.
func (c *Connector) unmap(ctx context.Context, m mapping) error {
	dev, err := c.opts.Devices.ByNumber(m.major, m.minor)
	if err == nil {
		err = c.opts.Devices.Flush(ctx, dev)
	}
	if err != nil && !errors.Is(err, volume.ErrGone) && !c.isLost(m, err) {
		return err
	}
	graceCtx, cancel := context.WithTimeout(ctx, openerGrace)
	defer cancel()
	for interval := minUnmapPoll; ; interval *= 2 {
		err := c.bus.remove(m)
		switch {
		case err == nil:
			return c.checkUnmapped(m)
		case !errors.Is(err, unix.EBUSY):
			return volume.Errorf(volume.KindInternal, "cannot unmap %s: %w", m, err).WithRemedy(retryRemedy + logRemedy)
		case operation.Sleep(graceCtx, interval) != nil:
			return fmt.Errorf("cannot unmap %s: %w", m, c.opts.Devices.InUseError(dev))
		}
	}
}

// isLost reports whether a failed flush is one of a node that the cluster has fenced: what was not
// written until then can never be written.
func (c *Connector) isLost(m mapping, flushErr error) bool {
	isIOError := errors.Is(flushErr, unix.EIO) || errors.Is(flushErr, unix.ESHUTDOWN)
	return isIOError && errors.Is(c.bus.refresh(m), unix.ESHUTDOWN)
}

// checkUnmapped returns an error if the kernel still shows the mapping. Another mapping may have
// got its number.
func (c *Connector) checkUnmapped(m mapping) error {
	present, err := c.bus.read(m.id)
	switch {
	case isGone(err):
		return nil
	case err != nil:
		return volume.Errorf(volume.KindInternal, "cannot read whether %s is unmapped: %w", m, err)
	case present == m:
		return volume.Errorf(volume.KindInternal, "%s is still mapped after its unmapping", m).
			WithRemedy(retryRemedy + logRemedy)
	}
	return nil
}

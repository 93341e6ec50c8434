package krbd

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file finds the mapping of a volume, verifies that a device is the volume, and refreshes it.

// isOf reports whether the mapping is of the volume id with this record: by the ids that the record
// has, by the name of the key, or, for a volume that ceph-csi has mapped, by the UUID in its name.
func isOf(m mapping, id string, rec record) bool {
	if rec.Mapped != nil && *rec.Mapped == m.identity || m.key == keyName(id) {
		return true
	}
	h, ok := rbdcsi.ParseCephCSIHandle(id)
	return ok && rec.Mapped == nil && m.PoolID == h.PoolID && m.snapshot == "" && strings.HasSuffix(m.image, "-"+h.UUID)
}

// find returns the mapping of the volume, if there is one. Kinds: Precondition, when the image is
// mapped several times and none of the mappings is marked as the volume's; Internal.
func (c *Connector) find(id string) (m mapping, found bool, err error) {
	return c.findFor(id, target{})
}

// findFor is find for a request that may say by ids which image it is.
func (c *Connector) findFor(id string, t target) (m mapping, found bool, err error) {
	rec, _, err := c.records.read(id)
	if err != nil {
		return mapping{}, false, err
	}
	all, err := c.bus.list()
	if err != nil {
		return mapping{}, false, err
	}
	matches := slices.DeleteFunc(all, func(m mapping) bool { return !t.matches(m) && !isOf(m, id, rec) })
	if len(matches) > 1 {
		marked := slices.DeleteFunc(slices.Clone(matches), func(m mapping) bool { return m.key != keyName(id) })
		if len(marked) == 1 {
			matches = marked
		}
	}
	switch len(matches) {
	case 0:
		return mapping{}, false, nil
	case 1:
		return matches[0], true, nil
	}
	names := make([]string, len(matches))
	for i, m := range matches {
		names[i] = m.String()
	}
	return mapping{}, false, volume.Errorf(volume.KindPrecondition,
		"the image of the volume is mapped several times on this node: %s", strings.Join(names, ", ")).
		WithRemedy("find with lsblk which of the devices is mounted, and unmap each of the others: rbd unmap DEVICE")
}

// Locate implements volume.Connector. It reads sysfs and does not wait for the cluster. Kind
// NotFound: no volume can have the id.
func (c *Connector) Locate(ctx context.Context, id string) (conn volume.Connection, connected bool, err error) {
	conn, err = operation.AwaitCall(ctx, func() (volume.Connection, error) {
		m, found, err := c.find(id)
		if err != nil {
			return volume.Connection{}, err
		}
		if !found {
			return volume.Connection{}, c.checkID(id)
		}
		conn, err := c.connection(m, 0)
		if errors.Is(err, volume.ErrGone) {
			return volume.Connection{}, nil // unmapped meanwhile
		}
		return conn, err
	})
	return conn, conn.Path != "", volume.Wrap(err, "locate", id)
}

// checkID returns an error of kind NotFound for an id that is no handle of a volume, as the
// controller does. It returns nil if this node has a record of the id: the volume context of a
// static volume of ceph-csi names its image, whatever the id is.
func (c *Connector) checkID(id string) error {
	_, invalid := rbdcsi.ParseVolumeHandle(id)
	if _, ok := rbdcsi.ParseCephCSIHandle(id); ok || invalid == nil {
		return nil
	}
	_, exists, err := c.records.read(id)
	if err != nil || exists {
		return err
	}
	return volume.Errorf(volume.KindNotFound, "no volume has this handle: %w", invalid)
}

// Verify implements volume.Connector: the device must be a mapping of the volume's image. It does
// not wait for the cluster.
func (c *Connector) Verify(ctx context.Context, id, path string) error {
	_, err := operation.AwaitCall(ctx, func() (struct{}, error) { return struct{}{}, c.verify(id, path) })
	return volume.Wrap(err, "verify", id)
}

func (c *Connector) verify(id, path string) error {
	dev, err := c.opts.Devices.ByPath(path)
	if err != nil {
		return err
	}
	if dev.Kind != blockdev.KindRBD {
		return volume.Errorf(volume.KindPrecondition, "%s is not a mapped image, so it is not the volume", dev)
	}
	rec, exists, err := c.records.read(id)
	if err != nil {
		return err
	}
	all, err := c.bus.list()
	if err != nil {
		return err
	}
	index := slices.IndexFunc(all, func(m mapping) bool { return m.major == dev.Major && m.minor == dev.Minor })
	switch {
	case index < 0:
		if _, err := c.opts.Devices.ByPath(path); err != nil {
			return err // unmapped meanwhile
		}
		return volume.Errorf(volume.KindInternal, "the kernel shows no mapped image for %s", dev)
	case isOf(all[index], id, rec):
		return nil
	case !exists:
		return volume.Errorf(volume.KindPrecondition, "%s is not known as the volume: this node has not mapped the volume",
			all[index])
	}
	return volume.Errorf(volume.KindPrecondition, "%s is not the volume, whose image is %s", all[index], rec.Image)
}

// RefreshDevice implements volume.DeviceRefresher. A refresh takes 2 ms. It brings the size to a
// mapping that the cluster does not notify: one that is read-only, or that has lost its watch. A
// mapping with an object map is not refreshed, so that neither its size nor a fence shows.
func (c *Connector) RefreshDevice(ctx context.Context, id string) error {
	m, found, err := c.find(id)
	if err != nil || !found {
		return volume.Wrap(err, "refresh", id)
	}
	_, err = operation.AwaitExclusive(ctx, &c.refreshes, m.id, func() (struct{}, error) {
		return struct{}{}, c.bus.refreshSize(m)
	})
	switch {
	case errors.Is(err, unix.ESHUTDOWN):
		err = fencedError(m)
	case isGone(err):
		err = nil // unmapped meanwhile
	case err != nil:
		err = refreshError(m, err)
	}
	return volume.Wrap(err, "refresh", id)
}

package node

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// fakeConnector implements volume.Connector.
type fakeConnector struct{ *machine }

func (c fakeConnector) find(id string) (*fakeDisk, error) {
	if d, ok := c.disks[id]; ok && !d.deleted {
		return d, nil
	}
	return nil, volume.Errorf(volume.KindNotFound, "no such volume")
}

func (c fakeConnector) Connect(ctx context.Context, req volume.ConnectRequest) (volume.Connection, error) {
	leave, err := c.startCall("connect")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "connect")
	}
	if err != nil {
		return volume.Connection{}, err
	}
	d, err := c.find(req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	switch { // what the hypervisor has made read-only stays so
	case req.ReadOnly && !d.readOnly:
		d.readOnly, d.readOnlyByConnect = true, true
	case !req.ReadOnly && d.readOnlyByConnect:
		d.readOnly, d.readOnlyByConnect = false, false
	}
	if !d.connected {
		d.connected, d.deviceSize = true, max(d.deviceSize, d.backendSize-d.overhead)
		d.plugCount++
	}
	return d.connection(), nil
}

func (c fakeConnector) Disconnect(ctx context.Context, id string) error {
	leave, err := c.startCall("disconnect")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "disconnect")
	}
	if d := c.disks[id]; d != nil && err == nil {
		for _, m := range c.mounts {
			if m.DeviceNode == diskNumberOf(d) && !m.IsStaleDeviceNode() {
				c.violations = append(c.violations, "the disk was taken from under the raw device at "+m.MountPoint)
			}
			if d.connected && c.isOnDisk(m, d) {
				return volume.Errorf(volume.KindPrecondition, "still mounted at %s", m.MountPoint)
			}
		}
		if d.connected && d.hasMapping() {
			return volume.Errorf(volume.KindPrecondition, "%s is still in use: by %s-crypt", d.path, d.path)
		}
		if d.openHandles > 0 {
			return volume.Errorf(volume.KindDeadline, "%s is still open", d.path)
		}
		if !d.staysPlugged {
			d.connected, d.deviceSize = false, 0
		}
	}
	return err
}

func (c fakeConnector) Locate(ctx context.Context, id string) (volume.Connection, bool, error) {
	leave, err := c.startCall("locate")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "locate")
	}
	if err != nil {
		return volume.Connection{}, false, err
	}
	d, err := c.find(id)
	if err != nil || !d.connected {
		return volume.Connection{}, false, err
	}
	conn := d.connection()
	conn.PublishedSize, conn.Encrypted = 0, false // only Connect is told
	if d.sizeOnlyAtConnect {
		conn.Size = 0
		if conn.Granularity > 0 {
			conn.MaxOverhead = 32 * volume.MiB // what there may be at most
		}
	}
	return conn, true, nil
}

func (c fakeConnector) Verify(ctx context.Context, id, path string) error {
	leave, err := c.startCall("verify")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "verify")
	}
	if err != nil {
		return err
	}
	d, ok := c.diskAt(path)
	_, err = c.find(id)
	switch {
	case err != nil && d != nil && d == c.disks[id]:
		return volume.Errorf(volume.KindNotFound, "%s has what is left of the deleted volume: %w", path, volume.ErrGone)
	case err != nil:
		return err
	case d != nil && !ok:
		return volume.Errorf(volume.KindInternal, "%s: %w", path, volume.ErrGone)
	case d != nil && path != d.path:
		return volume.Errorf(volume.KindPrecondition, "%s is a mapping and so not the volume", path)
	case d != c.disks[id] || d.serial != "" && d.serial != id:
		return volume.Errorf(volume.KindPrecondition, "%s is another volume", path)
	}
	return nil
}

func (fakeConnector) Node(context.Context) (volume.NodeInfo, error) {
	return volume.NodeInfo{Topology: volume.Topology{"zone": "a"}, MaxVolumes: 7}, nil
}

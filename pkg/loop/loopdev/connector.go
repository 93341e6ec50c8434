// Package loopdev is the node's half of the loop backend: a volume.Connector that gives
// the files of package loop, which is the controller's half, a loop device on the node.
// Both halves share the directory of the volumes (internal/volumedir).
//
// Connect takes a loop device and returns its path, Verify proves by inode number that
// the device holds the volume, and Disconnect flushes and releases the device. A volume
// that grew keeps its smaller device until the node service asks the kernel to read the
// size again (LOOP_SET_CAPACITY, package blockdev).
package loopdev

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// sectorSize is the unit of a loop device's size.
const sectorSize volume.Size = 512

// Options configure a Connector.
type Options struct {
	Dir  string       // the directory of the volumes, on this machine
	Node string       // this node's name, as the controller's half knows it
	Log  *slog.Logger // nil means no log
}

// Connector brings the volumes of a directory to this node as loop devices. It
// implements volume.Connector and volume.HealthChecker.
type Connector struct {
	dir     volumedir.Dir
	node    string
	loops   *losetup.System
	devices *blockdev.System
	log     *slog.Logger
	// operations are locked by volume while the kernel works on the volume's device.
	// Detached work keeps the lock, so that a retry waits for the work instead of
	// finding the device in use.
	operations operation.Locks
}

// New returns the connector of a node.
func New(o Options) (*Connector, error) {
	if o.Dir == "" || o.Node == "" {
		return nil, volume.Errorf(volume.KindInvalid, "the loop connector needs a directory and the name of its node")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Connector{
		dir: volumedir.Dir(o.Dir), node: o.Node, loops: losetup.New(), devices: blockdev.New(), log: o.Log,
	}, nil
}

// CheckHealth implements volume.HealthChecker: the directory of the volumes can be read,
// and the kernel has loop devices.
func (c *Connector) CheckHealth(context.Context) error {
	if err := unix.Access(string(c.dir), unix.R_OK|unix.X_OK); err != nil {
		return volume.Errorf(volume.KindUnavailable, "cannot read the directory of the volumes: %w",
			&os.PathError{Op: "access", Path: string(c.dir), Err: err}).
			WithRemedy("check that the node's directory is mounted into the plugin, and that the controller uses the same one")
	}
	control := filepath.Join(c.loops.Dev, "loop-control")
	if err := unix.Access(control, unix.R_OK|unix.W_OK); err != nil {
		return volume.Errorf(volume.KindUnavailable, "cannot use loop devices: %w",
			&os.PathError{Op: "access", Path: control, Err: err}).
			WithRemedy("load the kernel module on the node (modprobe loop), and mount the node's /dev into the plugin")
	}
	return nil
}

// Node implements volume.Connector. The kernel creates loop devices on demand, so the
// number of volumes has no limit.
func (c *Connector) Node(context.Context) (volume.NodeInfo, error) {
	return volume.NodeInfo{Topology: volume.Topology{loopcsi.TopologyKey: c.node}}, nil
}

// Connect implements volume.Connector. It returns a device that the volume already has
// unchanged, also after the file has grown: Connection.Size is the size of the file, and
// the caller resizes the device.
func (c *Connector) Connect(ctx context.Context, req volume.ConnectRequest) (conn volume.Connection, err error) {
	defer func() { err = volume.Wrap(err, "connect", req.ID) }()
	published, err := parsePublishedSize(req.PublishContext)
	if err != nil {
		return volume.Connection{}, err
	}
	lease, err := c.operations.LockDevice(ctx, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	defer lease.Release()
	// This lock excludes the controller: it cannot copy or delete the volume now.
	o, unlock, err := c.dir.Lock(ctx, volumedir.Volumes, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	lease.Add(unlock)
	if o.Attachment == nil || o.Attachment.Node != c.node {
		// Precondition: Kubernetes stages only attached volumes, so a retry cannot help.
		return volume.Connection{}, volume.Errorf(volume.KindPrecondition,
			"the volume is not attached to this node (%s)", c.node).
			WithRemedy("check the VolumeAttachment, and that the controller and the node use the same node name")
	}
	ensure := func(ctx context.Context) (losetup.Device, error) { return c.ensureDevice(ctx, o, req.ReadOnly) }
	d, err := operation.RunOnDevice(ctx, lease, "connecting the volume's loop device", ensure)
	if err != nil {
		return volume.Connection{}, err
	}
	return connection(o, d, published), nil
}

// ensureDevice returns the volume's loop device, and takes one if the volume has none.
// readOnly is the node's choice, not that of the attachment: a filesystem that is only
// read may need its journal replayed first.
func (c *Connector) ensureDevice(ctx context.Context, o volumedir.Object, readOnly bool) (losetup.Device, error) {
	d, isBound, err := c.findDevice(o)
	if err != nil {
		return losetup.Device{}, err
	}
	if isBound && d.ReadOnly != readOnly {
		// An earlier use left the device; release fails if something still uses it.
		if err := c.release(ctx, d); err != nil {
			return losetup.Device{}, fmt.Errorf("cannot release the device of the volume, which has read-only=%t, not %t: %w",
				d.ReadOnly, readOnly, err)
		}
		isBound = false
	}
	if isBound {
		// An earlier Disconnect that failed might have asked the kernel to clear the device.
		isBound, err = c.loops.CancelClear(d)
	}
	if err == nil && !isBound {
		d, err = c.bind(ctx, o, readOnly)
	}
	if err == nil {
		err = c.verify(o.ID, d.Path)
	}
	return d, err
}

// parsePublishedSize returns the size that the controller published; zero: none.
func parsePublishedSize(publish map[string]string) (volume.Size, error) {
	text := publish[loopcsi.ContextSize]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, volume.Errorf(volume.KindInvalid,
			"the publish context has %s=%q, which is not a size in bytes", loopcsi.ContextSize, text)
	}
	return volume.Size(n), nil
}

// connection returns the connection of a device. Its size is that of the file, or the
// published size if the file has been truncated since.
func connection(o volumedir.Object, d losetup.Device, published volume.Size) volume.Connection {
	return volume.Connection{
		Path: d.Path, Size: max(o.Size.RoundDown(sectorSize), published.RoundDown(sectorSize)), PublishedSize: published,
	}
}

// findDevice finds the loop device that the volume has.
func (c *Connector) findDevice(o volumedir.Object) (d losetup.Device, isBound bool, err error) {
	devices, err := c.loops.Find(c.dir.DataPath(volumedir.Volumes, o.ID))
	switch {
	case err != nil || len(devices) == 0:
		return losetup.Device{}, false, err
	case len(devices) == 1:
		return devices[0], true, nil
	}
	// Two devices cache the same blocks independently of one another.
	return losetup.Device{}, false, volume.Errorf(volume.KindPrecondition,
		"several loop devices have the volume's file: %s",
		losetup.Paths(devices)).
		WithRemedy("find with lsblk which of them is mounted, and detach each of the others: losetup -d DEVICE")
}

// bind gives the volume a loop device.
func (c *Connector) bind(ctx context.Context, o volumedir.Object, readOnly bool) (losetup.Device, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(c.dir.DataPath(volumedir.Volumes, o.ID), mode, 0)
	if err != nil {
		return losetup.Device{}, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	d, err := c.loops.Bind(f, o.ID, readOnly)
	if err != nil {
		return losetup.Device{}, volume.Wrap(fmt.Errorf("cannot attach a loop device: %w", err), "", "")
	}
	c.log.InfoContext(ctx, "connected a volume",
		"volume", o.ID, "device", d.Path, "size", o.Size.String(), "readOnly", readOnly)
	return d, nil
}

// Locate implements volume.Connector.
func (c *Connector) Locate(ctx context.Context, id string) (conn volume.Connection, connected bool, err error) {
	conn, err = operation.AwaitCall(ctx, func() (volume.Connection, error) {
		o, err := c.dir.Load(volumedir.Volumes, id)
		if err != nil {
			return volume.Connection{}, err
		}
		d, isBound, err := c.findDevice(o)
		if err != nil || !isBound {
			return volume.Connection{}, err
		}
		return connection(o, d, 0), nil
	})
	return conn, conn.Path != "", volume.Wrap(err, "locate", id)
}

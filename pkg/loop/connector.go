package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// sector is the unit of a loop device's size.
const sector volume.Size = 512

// ConnectorOptions configure a Connector.
type ConnectorOptions struct {
	Dir  string       // the directory of the Backend, on the same machine
	Node string       // this node's name, as the Backend knows it
	Log  *slog.Logger // nil: none
}

// Connector brings the volumes of a Backend to this node as loop devices. It
// implements volume.Connector.
type Connector struct {
	opts   ConnectorOptions
	store  *store
	loops  *loops
	blocks *blockdev.System
	log    *slog.Logger
}

// NewConnector returns the connector of a node.
func NewConnector(o ConnectorOptions) (*Connector, error) {
	if o.Dir == "" || o.Node == "" {
		return nil, volume.Errorf(volume.Invalid, "the loop connector needs a directory and the name of its node")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Connector{opts: o, store: &store{dir: o.Dir}, loops: newLoops(), blocks: blockdev.New(), log: o.Log}, nil
}

// Node implements volume.Connector. The kernel makes loop devices as they are
// needed, so there is no limit worth naming.
func (c *Connector) Node(context.Context) (volume.NodeInfo, error) {
	return volume.NodeInfo{Topology: volume.Topology{TopologyKey: c.opts.Node}}, nil
}

// Connect implements volume.Connector. A device that the volume has already
// is returned as it is, also when its file has grown since: Connection.Size is
// that of the file, and it is for the caller to make the device follow.
func (c *Connector) Connect(ctx context.Context, req volume.ConnectRequest) (volume.Connection, error) {
	conn, err := c.connect(ctx, req)
	return conn, volume.Wrap(err, "connect", req.ID)
}

func (c *Connector) connect(ctx context.Context, req volume.ConnectRequest) (volume.Connection, error) {
	published, err := publishedSize(req.Publish)
	if err != nil {
		return volume.Connection{}, err
	}
	// Under this lock nobody copies, deletes or connects the volume.
	o, unlock, err := c.store.lock(ctx, volumes, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	defer unlock()
	if o.attachment == nil || o.attachment.Node != c.opts.Node {
		return volume.Connection{}, volume.Errorf(volume.Precondition, "the volume is not attached to this node, %s", c.opts.Node).
			WithRemedy("wait for the VolumeAttachment; check that the controller and the node use the same node name")
	}
	// Not what the volume is attached for: a filesystem that is only read may
	// have a journal to be replayed first.
	readOnly := req.ReadOnly
	d, ok, err := c.connected(o)
	if err != nil {
		return volume.Connection{}, err
	}
	if ok && d.readOnly != readOnly {
		// Left by an earlier use; it is in nobody's way unless it is in use.
		if err := c.release(ctx, d); err != nil {
			return volume.Connection{}, fmt.Errorf("the volume is connected with read-only %t, not %t: %w", d.readOnly, readOnly, err)
		}
		ok = false
	}
	if ok {
		// A Disconnect that failed may have left it to vanish with its last user.
		ok, err = c.loops.keep(d)
	}
	if err == nil && !ok {
		d, err = c.bind(ctx, o, readOnly)
	}
	if err == nil {
		err = c.verify(o.id, d.path)
	}
	if err != nil {
		return volume.Connection{}, err
	}
	return connection(o, d, published), nil
}

// publishedSize reads the size that Attach published.
func publishedSize(publish map[string]string) (volume.Size, error) {
	text := publish[PublishSize]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, volume.Errorf(volume.Invalid, "the publish context has %s=%q, which is not a size in bytes", PublishSize, text)
	}
	return volume.Size(n), nil
}

// connection says what the device must hold: the file as it is now, or what
// was published if somebody has cut the file since.
func connection(o object, d device, published volume.Size) volume.Connection {
	return volume.Connection{Path: d.path, Size: max(o.size.RoundDown(sector), published.RoundDown(sector))}
}

// connected finds the loop device that the volume has.
func (c *Connector) connected(o object) (device, bool, error) {
	devices, err := c.loops.bound(c.store.data(volumes, o.id))
	if err != nil {
		return device{}, false, err
	}
	switch len(devices) {
	case 0:
		return device{}, false, nil
	case 1:
		return devices[0], true, nil
	}
	// Two devices would cache the same blocks apart from one another.
	return device{}, false, volume.Errorf(volume.Precondition, "several loop devices have the volume's file: %s", paths(devices)).
		WithRemedy("find out who made them; detach those that are not mounted with losetup -d")
}

// bind gives the volume a loop device.
func (c *Connector) bind(ctx context.Context, o object, readOnly bool) (device, error) {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	path := c.store.data(volumes, o.id)
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return device{}, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	d, err := c.loops.bind(f, o.id, readOnly)
	if err != nil {
		return device{}, volume.Wrap(fmt.Errorf("attach a loop device: %w", err), "", "")
	}
	c.log.InfoContext(ctx, "connected a volume", "volume", o.id, "device", d.path, "size", o.size.String(), "readOnly", readOnly)
	return d, nil
}

// Locate implements volume.Connector.
func (c *Connector) Locate(_ context.Context, id string) (volume.Connection, bool, error) {
	o, err := c.store.load(volumes, id)
	if err != nil {
		return volume.Connection{}, false, volume.Wrap(err, "locate", id)
	}
	d, ok, err := c.connected(o)
	if err != nil || !ok {
		return volume.Connection{}, false, volume.Wrap(err, "locate", id)
	}
	return connection(o, d, 0), true, nil
}

// Verify implements volume.Connector: the device's backing file is the
// volume's, by device and inode number.
func (c *Connector) Verify(_ context.Context, id, disk string) error {
	if _, err := c.store.load(volumes, id); err != nil {
		return volume.Wrap(err, "verify", id)
	}
	return volume.Wrap(c.verify(id, disk), "verify", id)
}

func (c *Connector) verify(id, disk string) error {
	path := c.store.data(volumes, id)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	d, err := c.blocks.ByPath(disk)
	if err != nil {
		return err
	}
	if d.Kind != blockdev.Loop {
		return volume.Errorf(volume.Precondition, "%s is not a loop device, and so is not the volume", d)
	}
	info, err := c.loops.status(disk)
	switch {
	case errors.Is(err, unix.ENXIO):
		return volume.Errorf(volume.Internal, "%s has no file any more: it is no volume at all", disk)
	case err != nil:
		return fmt.Errorf("read the status of %s: %w", disk, err)
	case !sameFile(info, &st):
		backing, _ := c.blocks.Serial(d) // for the message only
		return volume.Errorf(volume.Precondition, "%s is not the volume: its file is %s, not %s", disk, backing, path)
	case info.Offset != 0 || info.Sizelimit != 0:
		return volume.Errorf(volume.Precondition, "%s shows a part of the volume only (offset %d, limit %d)", disk, info.Offset, info.Sizelimit)
	}
	return nil
}

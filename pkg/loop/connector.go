package loop

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/growvol/growvol/pkg/operation"

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
// implements volume.Connector and volume.HealthChecker.
type Connector struct {
	opts   ConnectorOptions
	store  *store
	loops  *loops
	blocks *blockdev.System
	log    *slog.Logger
	// running is locked by volume while the kernel works on the volume's device.
	// Work that outlives its call keeps the lock, so that a retry waits for it
	// instead of finding the device in use.
	running operation.Locks
}

// NewConnector returns the connector of a node.
func NewConnector(o ConnectorOptions) (*Connector, error) {
	if o.Dir == "" || o.Node == "" {
		return nil, volume.Errorf(volume.KindInvalid, "the loop connector needs a directory and the name of its node")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Connector{opts: o, store: &store{dir: o.Dir}, loops: newLoops(), blocks: blockdev.New(), log: o.Log}, nil
}

// CheckHealth implements volume.HealthChecker: the volumes' directory can be read,
// and the kernel has loop devices.
func (c *Connector) CheckHealth(context.Context) error {
	if err := unix.Access(c.opts.Dir, unix.R_OK|unix.X_OK); err != nil {
		return volume.Errorf(volume.KindUnavailable, "the directory of the volumes cannot be read: %w", &os.PathError{Op: "access", Path: c.opts.Dir, Err: err}).
			WithRemedy("check that the node's directory is mounted into the plugin, and that the controller uses the same one")
	}
	control := filepath.Join(c.loops.dev, "loop-control")
	if err := unix.Access(control, unix.R_OK|unix.W_OK); err != nil {
		return volume.Errorf(volume.KindUnavailable, "the kernel offers no loop devices: %w", &os.PathError{Op: "access", Path: control, Err: err}).
			WithRemedy("load the kernel's module loop, and mount the node's /dev into the plugin")
	}
	return nil
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
	published, err := publishedSize(req.PublishContext)
	if err != nil {
		return volume.Connection{}, err
	}
	l, err := c.begin(ctx, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	defer l.Release()
	// Under this lock nobody copies, deletes or connects the volume.
	o, unlock, err := c.store.lock(ctx, volumes, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	l.Add(unlock)
	if o.attachment == nil || o.attachment.Node != c.opts.Node {
		// Kubernetes stages only what it has attached: this does not pass by itself.
		return volume.Connection{}, volume.Errorf(volume.KindPrecondition, "the volume is not attached to this node, %s", c.opts.Node).
			WithRemedy("check the VolumeAttachment, and that the controller and the node use the same node name")
	}
	d, err := outlive(ctx, l, "connecting the volume's loop device", func(ctx context.Context) (device, error) {
		return c.provide(ctx, o, req.ReadOnly)
	})
	if err != nil {
		return volume.Connection{}, err
	}
	return connection(o, d, published), nil
}

// begin takes the volume for the caller, after work on it that outlived an
// earlier call.
func (c *Connector) begin(ctx context.Context, id string) (*operation.Lease, error) {
	unlock, err := c.running.Lock(ctx, id)
	if err != nil {
		cause := context.Cause(ctx)
		text := "an earlier operation on the volume's loop device has not finished: %w"
		return nil, volume.Errorf(volume.KindOf(cause), text, cause).
			WithRemedy("Kubernetes retries this automatically; if it lasts, check the kernel log of this node for I/O that hangs")
	}
	return operation.NewLease(unlock), nil
}

// outlive runs what the kernel cannot be interrupted in. When ctx ends first the
// work goes on and keeps the lease's locks.
func outlive[T any](ctx context.Context, l *operation.Lease, what string, work func(context.Context) (T, error)) (T, error) {
	if err := ctx.Err(); err != nil {
		var zero T
		return zero, fmt.Errorf("%s has not begun: %w", what, err)
	}
	return operation.RunDetached(ctx, l, what, func() (T, error) { return work(context.WithoutCancel(ctx)) })
}

// provide returns the volume's loop device, and makes one if there is none. It
// is not read-only because the volume is attached so: a filesystem that is only
// read may have a journal to be replayed first.
func (c *Connector) provide(ctx context.Context, o object, readOnly bool) (device, error) {
	d, ok, err := c.connected(o)
	if err != nil {
		return device{}, err
	}
	if ok && d.readOnly != readOnly {
		// Left by an earlier use; it is in nobody's way unless it is in use.
		if err := c.release(ctx, d); err != nil {
			return device{}, fmt.Errorf("the volume is connected with read-only %t, not %t: %w", d.readOnly, readOnly, err)
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
	return d, err
}

// publishedSize reads the size that Attach published.
func publishedSize(publish map[string]string) (volume.Size, error) {
	text := publish[PublishSize]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, volume.Errorf(volume.KindInvalid, "the publish context has %s=%q, which is not a size in bytes", PublishSize, text)
	}
	return volume.Size(n), nil
}

// connection says what the device must hold: the file as it is now, or what
// was published if somebody has cut the file since.
func connection(o object, d device, published volume.Size) volume.Connection {
	return volume.Connection{Path: d.path, Size: max(o.size.RoundDown(sector), published.RoundDown(sector)), PublishedSize: published}
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
	return device{}, false, volume.Errorf(volume.KindPrecondition, "several loop devices have the volume's file: %s", paths(devices)).
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
func (c *Connector) Locate(ctx context.Context, id string) (conn volume.Connection, connected bool, err error) {
	conn, err = operation.AwaitCall(ctx, func() (volume.Connection, error) {
		o, err := c.store.load(volumes, id)
		if err != nil {
			return volume.Connection{}, err
		}
		d, ok, err := c.connected(o)
		if err != nil || !ok {
			return volume.Connection{}, err
		}
		return connection(o, d, 0), nil
	})
	return conn, conn.Path != "", volume.Wrap(err, "locate", id)
}

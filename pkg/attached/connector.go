package attached

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// sizeGranularity: Cinder counts in whole GiB (API, volume "size").
	sizeGranularity = volume.GiB
	// maxLUKSHeader is the largest header of an encryption in the hypervisor:
	// 16 MiB as cryptsetup makes LUKS2, 2 MiB for LUKS1, and some reserve.
	maxLUKSHeader = 32 * volume.MiB
	// shortRemedy is for a disk that has not followed its volume. Cinder
	// changes the size first and tells Nova afterwards; when that message is
	// lost nobody sends it again. Kubernetes asks for no larger size while one is
	// pending on the node, so the further GiB has to be asked of Cinder.
	shortRemedy = "Kubernetes retries this automatically; if it lasts, Nova was not told of the new size: have the volume detached and attached again (scale its workload to zero " +
		"until the VolumeAttachment is gone), or extended in Cinder by 1 GiB more, or have the controller run with --notify-nova"
)

// Devices is what the connector needs of the machine's disks;
// *blockdev.System is the real one.
type Devices interface {
	Disks() ([]blockdev.Device, error)
	ByPath(path string) (blockdev.Device, error)
	Serial(d blockdev.Device) (string, error)
	Size(d blockdev.Device) (volume.Size, error)
	IsReadOnly(d blockdev.Device) (bool, error)
	SetReadOnly(d blockdev.Device, readOnly bool) error
	Flush(ctx context.Context, d blockdev.Device) error
	ScanSCSI(ctx context.Context) (hosts int, err error)
}

// Options configure a Connector.
type Options struct {
	Devices Devices // required
	// Node tells where this node is and how many volumes it takes; required.
	Node func(context.Context) (volume.NodeInfo, error)
	Log  *slog.Logger // nil: none
}

// Connector finds the disks that the hypervisor has plugged in. It implements
// volume.Connector. It makes and removes no devices: plugging in and out is
// the controller's part, before Connect and after Disconnect.
type Connector struct {
	opts        Options
	log         *slog.Logger
	serialReads singleflight.Group // of serials, by device number
	// verifyLocks is locked by device number while Verify reads from the disk: one that
	// hangs costs one thread, however often it is tried.
	verifyLocks operation.Locks
	scanner     scanner
	// diskLocks is locked by volume while the kernel works on the volume's disk. Work
	// that outlives its call keeps the lock: a flush has the disk open exclusively.
	diskLocks operation.Locks
}

var _ volume.Connector = (*Connector)(nil)

// New returns the connector of this node.
func New(o Options) (*Connector, error) {
	if o.Devices == nil || o.Node == nil {
		return nil, volume.Errorf(volume.KindInvalid, "the connector of attached disks needs the machine's devices and the node's description")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Connector{opts: o, log: o.Log, scanner: scanner{devices: o.Devices, log: o.Log}}, nil
}

// Node implements volume.Connector.
func (c *Connector) Node(ctx context.Context) (volume.NodeInfo, error) { return c.opts.Node(ctx) }

// Connect implements volume.Connector: it waits for the volume's disk.
func (c *Connector) Connect(ctx context.Context, req volume.ConnectRequest) (volume.Connection, error) {
	conn, err := c.connect(ctx, req)
	return conn, volume.Wrap(err, "connect", req.ID)
}

func (c *Connector) connect(ctx context.Context, req volume.ConnectRequest) (volume.Connection, error) {
	if err := checkID(req.ID); err != nil {
		return volume.Connection{}, err
	}
	conn, err := parsePublishContext(req.PublishContext)
	if err != nil {
		return volume.Connection{}, err
	}
	l, err := c.lockDisk(ctx, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	defer l.Release()
	disk, err := c.awaitDisk(ctx, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	what := fmt.Sprintf("making %s writable, or read-only", disk)
	if err := runDetached(ctx, l, what, func(context.Context) error { return c.setReadOnly(disk, req.ReadOnly) }); err != nil {
		return volume.Connection{}, err
	}
	conn.Path = disk.Path
	c.log.InfoContext(ctx, "found the disk of a volume", "volume", req.ID, "device", disk.String(), "encrypted", conn.Encrypted)
	return conn, nil
}

// checkID refuses an id that no volume of Cinder can have: they are UUIDs. It
// also keeps a disk that shows some short serial from being anybody's.
func checkID(id string) error {
	if id == "" {
		return volume.Errorf(volume.KindInvalid, "the volume id is empty")
	}
	if !volume.IsUUID(id) {
		return volume.Errorf(volume.KindNotFound, "no volume of Cinder can have this id, for it is no UUID").
			WithRemedy("check the volume handle of the PersistentVolume")
	}
	return nil
}

// parsePublishContext reads the publish context. A volume that cinder-csi-plugin has
// attached has neither size nor encryption in it, and both stay unknown.
func parsePublishContext(publish map[string]string) (volume.Connection, error) {
	conn := volume.Connection{Granularity: sizeGranularity, ShortRemedy: shortRemedy, Encrypted: publish[cindercsi.ContextEncrypted] == "true"}
	text, known := publish[cindercsi.ContextSize]
	if conn.Encrypted || !known {
		conn.MaxOverhead = maxLUKSHeader
	}
	if !known {
		return conn, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return conn, volume.Errorf(volume.KindInvalid, "the publish context has %s=%q, which is not a size in bytes", cindercsi.ContextSize, text)
	}
	conn.Size, conn.PublishedSize = volume.Size(n), volume.Size(n)
	return conn, nil
}

// setReadOnly makes the kernel refuse writes to the disk of a volume that is
// used for reading, for Nova plugs it in writable; and undoes that for the
// next use.
func (c *Connector) setReadOnly(disk blockdev.Device, want bool) error {
	is, err := c.opts.Devices.IsReadOnly(disk)
	if err != nil || is == want {
		return err
	}
	if err := c.opts.Devices.SetReadOnly(disk, want); err != nil {
		return err
	}
	// A disk that the hypervisor has made read-only stays so when asked for
	// writing. Mounting it will tell; here it may be wanted as it is.
	is, err = c.opts.Devices.IsReadOnly(disk)
	if err == nil && want && !is {
		err = volume.Errorf(volume.KindInternal, "%s is asked for read-only, but the kernel keeps it writable", disk)
	}
	return err
}

// Locate implements volume.Connector. It does not wait for a disk, except for
// one of two with the volume's serial to go. It does not know whether the
// volume is encrypted and so allows for a header.
func (c *Connector) Locate(ctx context.Context, id string) (volume.Connection, bool, error) {
	if err := checkID(id); err != nil {
		return volume.Connection{}, false, volume.Wrap(err, "locate", id)
	}
	found, err := c.findSettled(ctx, id)
	if err == nil {
		err = found.checkComplete()
	}
	if err == nil && found.notReady != nil && !errors.Is(found.notReady, errNoSize) {
		err = found.notReady
	}
	if err != nil || !found.isFound || found.notReady != nil {
		return volume.Connection{}, false, volume.Wrap(err, "locate", id)
	}
	return volume.Connection{Path: found.disk.Path, Granularity: sizeGranularity, MaxOverhead: maxLUKSHeader, ShortRemedy: shortRemedy}, true, nil
}

// Verify implements volume.Connector: the serial that the disk shows at this
// moment is the volume's id, or what the bus can carry of it. That the kernel has
// no such disk is the one proof that the volume's disk is gone: any other disk
// holds something.
//
// The reading begins in this call; it is never that of an earlier one.
func (c *Connector) Verify(ctx context.Context, id, disk string) error {
	return volume.Wrap(c.verify(ctx, id, disk), "verify", id)
}

func (c *Connector) verify(ctx context.Context, id, path string) error {
	d, err := c.opts.Devices.ByPath(path)
	if err != nil {
		return err
	}
	_, err = operation.AwaitExclusive(ctx, &c.verifyLocks, d.Number().String(), func() (struct{}, error) {
		return struct{}{}, c.checkSerial(id, path)
	})
	if err != nil && err == ctx.Err() { //nolint:errorlint // all others have their message
		return unverifiedError(d, err)
	}
	return err
}

// unverifiedError is the error for a disk that does not answer in the call's time.
func unverifiedError(d blockdev.Device, cause error) error {
	return volume.Errorf(volume.KindOf(cause), "%s is not proved to be the volume: %w: %w", d, errNoAnswer, cause).
		WithRemedy("Kubernetes retries this automatically; if it lasts, check the kernel log of this node for I/O that hangs")
}

// checkSerial reads the serial and compares it.
func (c *Connector) checkSerial(id, path string) error {
	d, err := c.opts.Devices.ByPath(path)
	if err != nil {
		return err
	}
	if !isPluggable(d) {
		return volume.Errorf(volume.KindPrecondition, "%s is no disk that a hypervisor has plugged in, and so is not the volume", d)
	}
	serial, err := c.opts.Devices.Serial(d)
	if err == nil && serial == "" {
		// A disk that is pulled out at this moment shows none either.
		_, err = c.opts.Devices.ByPath(path)
	}
	switch {
	case err != nil:
		return err
	case serial == "":
		return volume.Errorf(volume.KindPrecondition, "%s shows no serial, so nothing proves that it is the volume", d)
	case !volume.IsUUID(id), !blockdev.SerialMatches(serial, id):
		return volume.Errorf(volume.KindPrecondition, "%s is not the volume: its serial is %q", d, serial)
	}
	return nil
}

// Disconnect implements volume.Connector: it leaves the disk flushed and
// unused, so that the hypervisor may pull it out. The kernel's device is not
// deleted: a disk that Nova does not pull out after all could not be found
// again without a scan.
func (c *Connector) Disconnect(ctx context.Context, id string) error {
	return volume.Wrap(c.disconnect(ctx, id), "disconnect", id)
}

func (c *Connector) disconnect(ctx context.Context, id string) error {
	if !volume.IsUUID(id) { // nothing that could be connected
		return nil
	}
	l, err := c.lockDisk(ctx, id)
	if err != nil {
		return err
	}
	defer l.Release()
	found, err := c.findSettled(ctx, id)
	if err == nil {
		err = found.checkComplete()
	}
	if err != nil || !found.isFound || errors.Is(found.notReady, errNoSize) {
		return err
	}
	err = runDetached(ctx, l, fmt.Sprintf("flushing %s", found.disk), func(ctx context.Context) error {
		return c.opts.Devices.Flush(ctx, found.disk)
	})
	if isUnplugError(err) {
		// Pulled out meanwhile: nothing is left that could be flushed. If the
		// disk is still there, the error is about the disk.
		if again, findErr := c.find(ctx, id); findErr == nil && (!again.isFound || errors.Is(again.notReady, errNoSize)) {
			return nil
		}
	}
	return err
}

// lockDisk takes the volume for the caller, after work on its disk that outlived an
// earlier call.
func (c *Connector) lockDisk(ctx context.Context, id string) (*operation.Lease, error) {
	unlock, err := c.diskLocks.Lock(ctx, id)
	if err != nil {
		cause := context.Cause(ctx)
		text := "an earlier operation on the volume's disk has not finished: %w"
		return nil, volume.Errorf(volume.KindOf(cause), text, cause).
			WithRemedy("Kubernetes retries this automatically; if it lasts, check the kernel log of this node for I/O that hangs")
	}
	return operation.NewLease(unlock), nil
}

// runDetached runs what the kernel cannot be interrupted in. When ctx ends first the
// work goes on and keeps the lease's lock.
func runDetached(ctx context.Context, l *operation.Lease, what string, work func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s has not begun: %w", what, err)
	}
	_, err := operation.RunDetached(ctx, l, what, func() (struct{}, error) {
		return struct{}{}, work(context.WithoutCancel(ctx))
	})
	return err
}

// isUnplugError reports whether an error is one that a disk gives while it is pulled out.
func isUnplugError(err error) bool {
	for _, sign := range []error{fs.ErrNotExist, unix.ENXIO, unix.ENODEV, unix.EIO, unix.ENOMEDIUM} {
		if errors.Is(err, sign) {
			return true
		}
	}
	return false
}

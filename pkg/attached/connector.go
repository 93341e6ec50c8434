// Package attached is the node side of volumes that a hypervisor plugs into this machine as disks,
// as Nova does with Cinder volumes. It finds a disk by the serial that the hypervisor gives it,
// which is the volume's id.
//
// New makes the Connector, which package node drives; find.go finds a disk, and scanner.go asks the
// SCSI hosts for disks that did not announce themselves.
package attached

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"

	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// sizeGranularity is the unit of Cinder's sizes (API, volume "size").
	sizeGranularity = volume.GiB
	// maxLUKSHeader bounds the header of an encryption in the hypervisor: cryptsetup makes 16 MiB for
	// LUKS2 and 2 MiB for LUKS1, so twice the larger one.
	maxLUKSHeader = 32 * volume.MiB

	// ifErrorPersists begins the remedies for an error that can pass without a person.
	ifErrorPersists = "Kubernetes retries this automatically; if the error persists, "
	retryRemedy     = "no action needed: Kubernetes retries this automatically"
	hangRemedy      = ifErrorPersists + "look for I/O that hangs in the kernel log of this node: journalctl --dmesg"
	reattachRemedy  = "have the volume detached and attached again " +
		"(scale its workload to zero until kubectl get volumeattachments does not list it, then scale it up)"
	// shortRemedy is for a disk that has not grown with its volume. Cinder changes the size first and
	// notifies Nova afterwards; a notification that is lost is not repeated. Kubernetes requests no
	// larger size while an expansion is pending on the node, so only Cinder can add the GiB.
	shortRemedy = ifErrorPersists + "Nova may not know the new size: " + reattachRemedy +
		", or extend it in Cinder by 1 GiB more, " +
		"or run the controller with --notify-nova (Helm value cinder.notifyNova: true)"
)

// Devices is what the connector needs of the machine's disks; *blockdev.System implements it.
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
	// Node describes this node: its topology and how many volumes it can take; required.
	Node func(context.Context) (volume.NodeInfo, error)
	Log  *slog.Logger // nil: none
}

// Connector finds the disks that the hypervisor has plugged in. It implements volume.Connector. It
// makes and removes no devices: the controller has disks plugged in before Connect and pulled out
// after Disconnect.
type Connector struct {
	opts        Options
	log         *slog.Logger
	scanner     scanner
	serialReads singleflight.Group // by device number
	// verifyLocks are held by device number while Verify reads from a disk: a disk that hangs costs
	// one thread, whatever the number of retries.
	verifyLocks operation.Locks
	// diskLocks are held by volume id while the kernel works on the volume's disk, also after the
	// call: a flush has the disk open exclusively.
	diskLocks operation.Locks
}

var _ volume.Connector = (*Connector)(nil)

// New returns the connector of this node.
func New(o Options) (*Connector, error) {
	if o.Devices == nil || o.Node == nil {
		return nil, volume.Errorf(volume.KindInvalid,
			"the connector of attached disks needs the machine's devices and the node's description")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Connector{opts: o, log: o.Log, scanner: scanner{devices: o.Devices, log: o.Log}}, nil
}

// Node implements volume.Connector.
func (c *Connector) Node(ctx context.Context) (volume.NodeInfo, error) { return c.opts.Node(ctx) }

// Connect implements volume.Connector: it waits for the volume's disk.
func (c *Connector) Connect(ctx context.Context, req volume.ConnectRequest) (conn volume.Connection, err error) {
	defer func() { err = volume.Wrap(err, "connect", req.ID) }()
	if err := checkID(req.ID); err != nil {
		return volume.Connection{}, err
	}
	conn, err = parsePublishContext(req.PublishContext)
	if err != nil {
		return volume.Connection{}, err
	}
	lease, err := c.diskLocks.LockDevice(ctx, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	defer lease.Release()
	disk, err := c.awaitDisk(ctx, req.ID)
	if err != nil {
		return volume.Connection{}, err
	}
	what := fmt.Sprintf("setting read-only=%t on %s", req.ReadOnly, disk)
	_, err = operation.RunOnDevice(ctx, lease, what, func(context.Context) (struct{}, error) {
		return struct{}{}, c.setReadOnly(disk, req.ReadOnly)
	})
	if err != nil {
		return volume.Connection{}, err
	}
	conn.Path = disk.Path
	c.log.InfoContext(ctx, "found the disk of a volume",
		"volume", req.ID, "device", disk.String(), "encrypted", conn.Encrypted)
	return conn, nil
}

// checkID returns an error of kind NotFound for an id that no volume of Cinder can have, because it
// is not a UUID: a disk with some short serial could be taken for such a volume. The error has kind
// Invalid for an empty id.
func checkID(id string) error {
	if id == "" {
		return volume.Errorf(volume.KindInvalid, "the volume id is empty")
	}
	if !volume.IsUUID(id) {
		return volume.Errorf(volume.KindNotFound, "no volume of Cinder can have this id: it is not a UUID").
			WithRemedy("recreate the PersistentVolume with the volume's id in Cinder as spec.csi.volumeHandle")
	}
	return nil
}

// parsePublishContext reads size and encryption from the publish context. A volume that
// cinder-csi-plugin has attached has neither in it: both stay unknown.
func parsePublishContext(publishContext map[string]string) (volume.Connection, error) {
	conn := volume.Connection{
		Granularity: sizeGranularity, ShortRemedy: shortRemedy,
		Encrypted: publishContext[cindercsi.ContextEncrypted] == "true",
	}
	text, isKnown := publishContext[cindercsi.ContextSize]
	if conn.Encrypted || !isKnown {
		conn.MaxOverhead = maxLUKSHeader
	}
	if !isKnown {
		return conn, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return conn, volume.Errorf(volume.KindInvalid,
			"the publish context has %s=%q, which is not a size in bytes", cindercsi.ContextSize, text)
	}
	conn.Size, conn.PublishedSize = volume.Size(n), volume.Size(n)
	return conn, nil
}

// setReadOnly makes the kernel refuse writes to a disk, or accept them again: Nova plugs every disk
// in writable. A disk that the hypervisor has made read-only stays so without an error; mounting it
// for writing fails later.
func (c *Connector) setReadOnly(disk blockdev.Device, readOnly bool) error {
	isReadOnly, err := c.opts.Devices.IsReadOnly(disk)
	if err != nil || isReadOnly == readOnly {
		return err
	}
	if err := c.opts.Devices.SetReadOnly(disk, readOnly); err != nil {
		return err
	}
	isReadOnly, err = c.opts.Devices.IsReadOnly(disk)
	if err == nil && readOnly && !isReadOnly {
		err = volume.Errorf(volume.KindInternal,
			"cannot make %s read-only: the kernel accepted the change, but keeps the disk writable", disk)
	}
	return err
}

// Locate implements volume.Connector. It waits only while several disks show the volume's serial.
// It does not know whether the volume is encrypted, so it allows for a header.
func (c *Connector) Locate(ctx context.Context, id string) (conn volume.Connection, connected bool, err error) {
	defer func() { err = volume.Wrap(err, "locate", id) }()
	if err := checkID(id); err != nil {
		return volume.Connection{}, false, err
	}
	found, err := c.findKnown(ctx, id)
	if err == nil && found.notReady != nil && !errors.Is(found.notReady, errNoSize) {
		err = found.notReady
	}
	if err != nil || !found.isFound || found.notReady != nil {
		return volume.Connection{}, false, err
	}
	return volume.Connection{
		Path: found.disk.Path, Granularity: sizeGranularity, MaxOverhead: maxLUKSHeader, ShortRemedy: shortRemedy,
	}, true, nil
}

// Verify implements volume.Connector: the serial that the disk shows must be the volume's id, or
// the part of the id that the bus can carry. Verify starts its own reading of the serial. Its error
// wraps volume.ErrGone only if the kernel has no disk at path.
func (c *Connector) Verify(ctx context.Context, id, path string) (err error) {
	defer func() { err = volume.Wrap(err, "verify", id) }()
	d, err := c.opts.Devices.ByPath(path)
	if err != nil {
		return err
	}
	_, err = operation.AwaitExclusive(ctx, &c.verifyLocks, d.Number().String(), func() (struct{}, error) {
		return struct{}{}, c.checkSerial(id, path)
	})
	if err != nil && err == ctx.Err() { //nolint:errorlint // AwaitCall returns it bare when ctx ends first
		return noAnswerError(d, err)
	}
	return err
}

// noAnswerError is the error for a disk that does not answer before the call ends.
func noAnswerError(d blockdev.Device, cause error) error {
	return volume.Errorf(volume.KindOf(cause), "cannot verify that %s is the volume: %w: %w", d, errNoAnswer, cause).
		WithRemedy(hangRemedy)
}

// checkSerial returns an error unless the serial of the disk at path is the volume's id.
func (c *Connector) checkSerial(id, path string) error {
	d, err := c.opts.Devices.ByPath(path)
	if err != nil {
		return err
	}
	if !d.Kind.IsPluggable() {
		return volume.Errorf(volume.KindPrecondition,
			"%s is not a disk that a hypervisor plugs in, so it is not the volume", d)
	}
	serial, err := c.opts.Devices.Serial(d)
	if err == nil && serial == "" {
		// A disk that is pulled out at this moment shows no serial either.
		_, err = c.opts.Devices.ByPath(path)
	}
	switch {
	case err != nil:
		return err
	case serial == "":
		return volume.Errorf(volume.KindPrecondition, "cannot verify that %s is the volume: the disk shows no serial", d)
	case !volume.IsUUID(id), !blockdev.SerialMatches(serial, id):
		return volume.Errorf(volume.KindPrecondition, "%s is not the volume: its serial is %q", d, serial)
	}
	return nil
}

// Disconnect implements volume.Connector: it leaves the disk flushed and unused, so that the
// hypervisor may pull it out. It does not delete the kernel's device: if Nova does not pull the
// disk out after all, only a scan would find the disk again.
func (c *Connector) Disconnect(ctx context.Context, id string) (err error) {
	defer func() { err = volume.Wrap(err, "disconnect", id) }()
	if !volume.IsUUID(id) { // no such volume can be connected
		return nil
	}
	lease, err := c.diskLocks.LockDevice(ctx, id)
	if err != nil {
		return err
	}
	defer lease.Release()
	found, err := c.findKnown(ctx, id)
	if err != nil || found.isUnplugged() {
		return err
	}
	what := fmt.Sprintf("flushing %s", found.disk)
	_, err = operation.RunOnDevice(ctx, lease, what, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.opts.Devices.Flush(ctx, found.disk)
	})
	if isUnplugError(err) {
		// If the disk was pulled out meanwhile, nothing is left to flush. If the disk is still there,
		// the error is about the disk.
		if again, findErr := c.find(ctx, id); findErr == nil && again.isUnplugged() {
			return nil
		}
	}
	return err
}

// isUnplugError reports whether err is one that a disk returns while it is pulled out.
func isUnplugError(err error) bool {
	signs := []error{fs.ErrNotExist, unix.ENXIO, unix.ENODEV, unix.EIO, unix.ENOMEDIUM}
	return slices.ContainsFunc(signs, func(sign error) bool { return errors.Is(err, sign) })
}

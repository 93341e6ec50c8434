package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// machine is a node with disks, mappings, filesystems and mounts, which change
// as the real ones do: a disk shows a new size only after a rescan, a
// filesystem grows to what its device shows, an unmounted path is no mount.
type machine struct {
	mu     sync.Mutex
	disks  map[string]*fakeDisk // by volume id; what the backend has
	mounts []filesystem.Mount
	nextID int
	open   int // descriptors, also those of disks that are gone
	calls  []string
	// holdFormat, when set, makes a format last until it is closed.
	holdFormat       chan struct{}
	holdCheck        chan struct{} // likewise a check
	holdUnmount      chan struct{} // and an unmount
	holdFindMount    chan struct{} // and a look at a mount
	holdGrow         chan struct{} // when set, a growth lasts until it is closed
	growStarted      chan struct{} // when set, closed when a growth begins
	fail             map[string]error
	hooks            map[string]func()    // what happens on the machine right before a call
	holdLUKSFormat   chan struct{}        // when set, a luksFormat lasts until it is closed
	holdLUKSOpen     chan struct{}        // likewise the opening of a mapping
	mountsArePrivate bool                 // mounts do not propagate
	mappedDisks      map[string]*fakeDisk // by volume id: the disk below the mapping of that name
	events           chan blockdev.SizeEvent
	// violations is what nobody would forgive, and no answer tells of.
	violations []string
}

// fakeDisk is a volume and, when connected, its device.
type fakeDisk struct {
	backendSize       volume.Size
	connected         bool
	deleted           bool // the backend has the volume no more, but its device is still there
	readOnly          bool
	readOnlyByConnect bool // read-only because Connect was asked for it
	number            uint32
	path              string
	deviceSize        volume.Size // what the device reads
	ignoresRescan     bool        // a rescan brings nothing
	content           filesystem.Signature
	mappingSize       volume.Size            // size of a mapping on the disk; zero: none
	luks              luksState              // what LUKS has to do with it
	serial            string                 // the volume it really is; empty: the right one
	reportsFalseSize  bool                   // an awaited size is reported as reached although it is not
	hasOtherMapping   bool                   // the mapping on it is none of dm-crypt
	mountFailure      error                  // what its mounted filesystem answers
	awaitTimeout      time.Duration          // how long the last wait for its size could have lasted
	openHandles       int                    // descriptors that are open
	staysPlugged      bool                   // a hypervisor has plugged it in: Disconnect flushes it, and it stays
	plugCount         int                    // how often it was connected
	formatCount       int                    // how often mkfs has run
	measured          filesystem.Measurement // what is wrong with its mounted filesystem

	conn              volume.Connection // what the connector says beside path and size
	overhead          volume.Size       // what the device lacks of the volume
	sizeOnlyAtConnect bool              // the connector learns the size at Connect only
}

func (d *fakeDisk) connection() volume.Connection {
	conn := d.conn
	conn.Path, conn.Size = d.path, d.backendSize
	return conn
}

const (
	diskMajor  = 240 // LOCAL/EXPERIMENTAL USE in the kernel's list
	cryptMajor = 241
	headerSize = 16 * volume.MiB
)

func newMachine() *machine {
	return &machine{
		disks: map[string]*fakeDisk{}, mappedDisks: map[string]*fakeDisk{}, nextID: 100, fail: map[string]error{}, hooks: map[string]func(){},
		events: make(chan blockdev.SizeEvent),
	}
}

// add makes a volume in the backend.
func (m *machine) add(id string, size volume.Size) *fakeDisk {
	d := &fakeDisk{backendSize: size, number: uint32(len(m.disks) + 1), content: filesystem.Signature{State: filesystem.StateBlank}}
	d.path = fmt.Sprintf("/dev/fake%d", d.number)
	m.disks[id] = d
	return d
}

func (m *machine) startCall(call string) (func(), error) {
	m.mu.Lock()
	m.calls = append(m.calls, call)
	if happens := m.hooks[call]; happens != nil {
		happens()
	}
	return m.mu.Unlock, m.fail[call]
}

func (m *machine) countCalls(call string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, c := range m.calls {
		if c == call {
			n++
		}
	}
	return n
}

// checkInTime is what a call answers that waits for a device or a mount when its
// context has ended.
func checkInTime(ctx context.Context, what string) error {
	if ctx.Err() == nil {
		return nil
	}
	return volume.Errorf(volume.KindOf(ctx.Err()), "%s: no answer in time: %w", what, ctx.Err())
}

// diskAt returns the disk with this path, or below the mapping with this path,
// and whether there is such a device.
func (m *machine) diskAt(path string) (*fakeDisk, bool) {
	for _, d := range m.disks {
		switch path {
		case d.path:
			return d, d.connected
		case d.path + "-crypt": // it outlives its disk
			return d, d.hasMapping()
		}
	}
	return nil, false
}

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

// fakeDevices implements Devices.
type fakeDevices struct{ *machine }

func (f fakeDevices) ByPath(path string) (blockdev.Device, error) {
	leave, _ := f.startCall("by-path")
	defer leave()
	switch d, ok := f.diskAt(path); {
	case ok:
		return device(d, path), nil
	case d != nil:
		return blockdev.Device{}, volume.Errorf(volume.KindInternal, "%s: %w", path, volume.ErrGone)
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		for _, d := range f.disks {
			switch {
			case d.number != unix.Minor(st.Rdev):
			case unix.Major(st.Rdev) == diskMajor && d.connected:
				return device(d, d.path), nil
			case unix.Major(st.Rdev) == cryptMajor && d.hasMapping():
				return device(d, d.path+"-crypt"), nil
			}
		}
		if major := unix.Major(st.Rdev); major == diskMajor || major == cryptMajor {
			return blockdev.Device{}, volume.Errorf(volume.KindInternal, "%s is a stale device node: %w", path, volume.ErrGone)
		}
	}
	if strings.HasPrefix(path, "/dev/fake") { // the kernel's own name
		return blockdev.Device{}, volume.Errorf(volume.KindInternal, "%s: %w", path, volume.ErrGone)
	}
	return blockdev.Device{}, volume.Errorf(volume.KindInternal, "%s is no block device", path)
}

func device(d *fakeDisk, path string) blockdev.Device {
	if path != d.path {
		kind := blockdev.KindCrypt
		if d.hasOtherMapping {
			kind = blockdev.KindMapper
		}
		return blockdev.Device{Major: cryptMajor, Minor: d.number, Path: path, Kind: kind}
	}
	return blockdev.Device{Major: diskMajor, Minor: d.number, Path: path, Kind: blockdev.KindVirtioBlk}
}

func (f fakeDevices) ByNumber(major, minor uint32) (blockdev.Device, error) {
	leave, err := f.startCall("by-number")
	defer leave()
	if err != nil {
		return blockdev.Device{}, err
	}
	for _, d := range f.disks {
		switch {
		case d.number != minor:
		case major == cryptMajor && d.hasMapping():
			return device(d, d.path+"-crypt"), nil
		case major == diskMajor && d.connected:
			return device(d, d.path), nil
		}
	}
	if major != diskMajor && major != cryptMajor { // somebody else's
		return blockdev.Device{Major: major, Minor: minor, Path: fmt.Sprintf("/dev/other%d", minor)}, nil
	}
	return blockdev.Device{}, volume.Errorf(volume.KindInternal, "no block device %d:%d: %w", major, minor, volume.ErrGone)
}

func (f fakeDevices) Stack(dev blockdev.Device) ([]blockdev.Device, error) {
	if dev.Major == cryptMajor {
		disk, err := f.ByNumber(diskMajor, dev.Minor)
		return []blockdev.Device{dev, disk}, err
	}
	return []blockdev.Device{dev}, nil
}

func (f fakeDevices) Holders(dev blockdev.Device) ([]blockdev.Device, error) {
	leave, err := f.startCall("holders")
	defer leave()
	if err != nil {
		return nil, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil || dev.Major == cryptMajor || !d.hasMapping() || d.mappingGone() {
		return nil, err
	}
	return []blockdev.Device{device(d, d.path+"-crypt")}, nil
}

// diskOfDevice returns the disk of a device that is there under its number: of itself,
// or of the mapping on it.
func (m *machine) diskOfDevice(dev blockdev.Device) (*fakeDisk, error) {
	d, connected := m.diskAt(dev.Path)
	if !connected || d.number != dev.Minor {
		return nil, volume.Errorf(volume.KindInternal, "open %s: it does not lead to block device %s", dev.Path, dev.Number())
	}
	return d, nil
}

// sizeOf is the size of a disk, or of the mapping on it.
func (d *fakeDisk) sizeOf(dev blockdev.DeviceNumber) volume.Size {
	if dev.Major == cryptMajor && d.mappingSize > 0 {
		return d.mappingSize
	}
	return d.deviceSize
}

// refusesWrites reports whether a disk, or the mapping on it, is read-only.
func (d *fakeDisk) refusesWrites(dev blockdev.DeviceNumber) bool {
	if dev.Major == cryptMajor {
		return d.luks.readOnly
	}
	return d.readOnly
}

// descriptors counts what is open of a disk, or of the mapping on it.
func (d *fakeDisk) descriptors(dev blockdev.DeviceNumber) *int {
	if dev.Major == cryptMajor {
		return &d.luks.openHandles
	}
	return &d.openHandles
}

func (f fakeDevices) Size(dev blockdev.Device) (volume.Size, error) {
	leave, err := f.startCall("size")
	defer leave()
	if err != nil {
		return 0, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return 0, err
	}
	return d.sizeOf(dev.Number()), nil
}

// fakeHandle is an open device. It answers with errors once it is closed, or
// the disk was pulled out, also when the disk is back by then.
type fakeHandle struct {
	f       fakeDevices
	d       *fakeDisk
	dev     blockdev.Device
	plugged int
	closed  *bool
}

func (f fakeDevices) Open(ctx context.Context, dev blockdev.Device) (inspect.OpenDevice, error) {
	leave, err := f.startCall("open")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "open")
	}
	if err != nil {
		return nil, err
	}
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return nil, err
	}
	f.open++
	*d.descriptors(dev.Number())++
	return fakeHandle{f, d, dev, d.plugCount, new(bool)}, nil
}

// usable is the error of a handle that answers nothing any more. The machine
// is locked.
func (h fakeHandle) usable() error {
	switch {
	case *h.closed:
		return volume.Errorf(volume.KindInternal, "%s: %w", h.dev.Path, os.ErrClosed)
	case h.d.connected && h.d.plugCount == h.plugged:
		return nil
	case h.dev.Major == cryptMajor: // it is still there, and its disk is not
		return volume.Errorf(volume.KindInternal, "%s: %w", h.dev.Path, unix.EIO)
	default:
		return volume.Errorf(volume.KindInternal, "%s: %w", h.dev.Path, unix.ENODEV)
	}
}

func (h fakeHandle) Path() string                      { return h.dev.Path }
func (h fakeHandle) Number() blockdev.DeviceNumber     { return h.dev.Number() }
func (h fakeHandle) CheckPath() error                  { return nil }
func (h fakeHandle) BlockSize() (volume.Size, error)   { return 512, nil }
func (h fakeHandle) ReadAt([]byte, int64) (int, error) { return 0, errors.New("a fake has no content") }

func (h fakeHandle) Size() (volume.Size, error) {
	leave, err := h.f.startCall("size")
	defer leave()
	return h.d.sizeOf(h.dev.Number()), errors.Join(err, h.usable())
}

func (h fakeHandle) IsReadOnly() (bool, error) {
	leave, err := h.f.startCall("read-only")
	defer leave()
	return h.d.refusesWrites(h.dev.Number()), errors.Join(err, h.usable())
}

func (h fakeHandle) OpenWriter() (blockdev.Writer, error) {
	return nil, errors.New("a fake has no content")
}

func (h fakeHandle) Close() error {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if *h.closed {
		return os.ErrClosed
	}
	*h.closed = true
	h.f.open--
	if h.plugged == h.d.plugCount || h.dev.Major == cryptMajor { // a mapping outlives its disk
		*h.d.descriptors(h.dev.Number())--
	}
	return nil
}

func (f fakeDevices) WatchSizes(ctx context.Context, changed func(blockdev.SizeEvent)) error {
	for {
		select {
		case e := <-f.events:
			changed(e)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f fakeDevices) IsReadOnly(dev blockdev.Device) (bool, error) {
	leave, err := f.startCall("read-only")
	defer leave()
	d, _ := f.diskAt(dev.Path)
	return d != nil && d.refusesWrites(dev.Number()), err
}

func (f fakeDevices) AwaitSize(ctx context.Context, dev blockdev.Device, want volume.Size) (volume.Size, error) {
	leave, err := f.startCall("await")
	if at, ok := ctx.Deadline(); ok && err == nil {
		if d, err := f.diskOfDevice(dev); err == nil {
			d.awaitTimeout = time.Until(at)
		}
	}
	leave()
	if err == nil {
		err = checkInTime(ctx, "open "+dev.Path)
	}
	if err != nil {
		return 0, err
	}
	for {
		size, done, err := f.rescan(dev, want)
		if err != nil || done {
			return size, err
		}
		if err := operation.Sleep(ctx, 100*time.Millisecond); err != nil {
			return size, volume.Errorf(volume.KindOf(err), "%s has %s, not %s: %w", dev.Path, size, want, err)
		}
	}
}

// rescan makes a disk show what the backend has, unless it is deaf, and returns
// what it shows, and whether that is enough.
func (f fakeDevices) rescan(dev blockdev.Device, want volume.Size) (size volume.Size, done bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, err := f.diskOfDevice(dev)
	if err != nil {
		return 0, false, err
	}
	if d.deviceSize < want && !d.ignoresRescan {
		d.deviceSize = max(d.deviceSize, d.backendSize-d.overhead)
	}
	return d.deviceSize, d.deviceSize >= want || d.reportsFalseSize, nil
}

// testNode is a Server on a machine, and the requests for one volume.
type testNode struct {
	*machine
	*Server
	id, staging, target string
	capability          *csi.VolumeCapability
	context, secrets    map[string]string
}

func newTestNode(t *testing.T, capability *csi.VolumeCapability) *testNode {
	t.Helper()
	m := newMachine()
	s, err := New(Options{
		ID: "node-1", Connector: fakeConnector{m}, Devices: fakeDevices{m}, Mappings: fakeMappings{m}, Filesystems: fakeFilesystems{m},
		StateDir: filepath.Join(t.TempDir(), "state"), AnswerMargin: 10 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &testNode{machine: m, Server: s, id: "vol-1", staging: filepath.Join(dir, "staging"), target: filepath.Join(dir, "pod", "mount"), capability: capability}
}

func mountCapability(fstype string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fstype, MountFlags: flags}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func blockCapability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func (b *testNode) stage(ctx context.Context) error {
	_, err := b.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: b.id, StagingTargetPath: b.staging, VolumeCapability: b.capability, VolumeContext: b.context, Secrets: b.secrets,
	})
	return err
}

func (b *testNode) publish(ctx context.Context, readOnly bool) error {
	_, err := b.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: b.id, StagingTargetPath: b.staging, TargetPath: b.target, VolumeCapability: b.capability, Readonly: readOnly,
		VolumeContext: b.context,
	})
	return err
}

func (b *testNode) unpublish(ctx context.Context) error {
	_, err := b.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: b.id, TargetPath: b.target})
	return err
}

func (b *testNode) unstage(ctx context.Context) error {
	_, err := b.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: b.id, StagingTargetPath: b.staging})
	return err
}

func (b *testNode) expand(ctx context.Context, size volume.Size) (volume.Size, error) {
	resp, err := b.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: b.id, VolumePath: b.target, StagingTargetPath: b.staging, VolumeCapability: b.capability,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size.Bytes()},
	})
	return volume.Size(resp.GetCapacityBytes()), err
}

func (b *testNode) expandWithin(t *testing.T, size volume.Size, limit time.Duration) (volume.Size, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return b.expand(ctx, size)
}

// stageAndPublish stages and publishes a volume of the size, which must work.
func (b *testNode) stageAndPublish(t *testing.T, size volume.Size) *fakeDisk {
	t.Helper()
	d := b.add(b.id, size)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.publish(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	return d
}

// wantKind fails the test unless err is of the kind and mentions each word.
func wantKind(t *testing.T, err error, kind volume.Kind, words ...string) {
	t.Helper()
	if !volume.IsKind(err, kind) {
		t.Fatalf("error %v is of kind %s, want %s", err, volume.KindOf(err), kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not mention %q", err, w)
		}
	}
}

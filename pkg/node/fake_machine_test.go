package node

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

func (m *machine) dropMount(path string) {
	f := fakeFilesystems{m}
	for top, mounted, _ := f.FindMount(path); mounted; top, mounted, _ = f.FindMount(path) {
		_ = f.Unmount(context.Background(), top)
	}
}

// isOnDisk reports whether m is a mount of the filesystem on the disk, or on the
// mapping on it.
func (m *machine) isOnDisk(mount filesystem.Mount, d *fakeDisk) bool {
	if mount.FSType == string(filesystem.TypeBtrfs) { // its number is anonymous
		on, _ := m.diskAt(mount.Source)
		return on == d
	}
	return diskNumber(mount.Device) == diskNumberOf(d)
}

// diskNumber is the number of the disk of a device, which is that disk or the
// mapping on it.
func diskNumber(number blockdev.DeviceNumber) blockdev.DeviceNumber {
	if number.Major == cryptMajor {
		number.Major = diskMajor
	}
	return number
}

// findUser returns what uses a device: where it is mounted, or published as a raw
// device, and of a disk the mapping on it.
func (m *machine) findUser(d *fakeDisk, number blockdev.DeviceNumber) (path string, used bool) {
	if number == diskNumberOf(d) && d.hasMapping() {
		return d.path + "-crypt", true
	}
	for _, mount := range m.mounts {
		if m.isOnDisk(mount, d) || diskNumber(mount.DeviceNode) == diskNumberOf(d) && !mount.IsStaleDeviceNode() {
			return mount.MountPoint, true
		}
	}
	return "", false
}

// contentOf returns what is found on a disk, or on the mapping on it.
func (d *fakeDisk) contentOf(dev blockdev.DeviceNumber) filesystem.Signature {
	if dev == diskNumberOf(d) && d.luks.header.State != luks.HeaderAbsent {
		return filesystem.Signature{State: filesystem.StateForeign, IsRecognized: true, Content: "LUKS encryption"}
	}
	return d.content
}

// deviceNumberOf is the number of the device below a mounted filesystem.
func (m *machine) deviceNumberOf(mount filesystem.Mount) blockdev.DeviceNumber {
	if mount.FSType != string(filesystem.TypeBtrfs) {
		return mount.Device
	}
	if d, connected := m.diskAt(mount.Source); connected {
		return device(d, mount.Source).Number()
	}
	return mount.Device
}

func diskNumberOf(d *fakeDisk) blockdev.DeviceNumber {
	return blockdev.DeviceNumber{Major: diskMajor, Minor: d.number}
}

// machine is a fake node with disks, mappings, filesystems and mounts. They change as the real ones
// do: a disk shows a new size only after a rescan, and a filesystem grows to the size of its
// device. The hold channels make a call last until the channel is closed; nil: no time.
type machine struct {
	mu     sync.Mutex
	disks  map[string]*fakeDisk // by volume id: the volumes of the backend
	mounts []filesystem.Mount
	nextID int
	open   int // descriptors, also those of disks that are gone
	calls  []string
	fail   map[string]error  // by call
	hooks  map[string]func() // by call: what happens on the machine right before it

	holdFormat, holdCheck, holdUnmount, holdFindMount, holdGrow, holdTrim chan struct{}
	holdLUKSFormat, holdLUKSOpen                                          chan struct{}
	growStarted, trimStarted                                              chan struct{} // closed when it begins; nil: not

	mountsArePrivate bool                 // mounts do not propagate
	mappedDisks      map[string]*fakeDisk // by volume id: the disk below the mapping of that name
	events           chan blockdev.SizeEvent
	violations       []string // harm that was done without an error
}

// fakeDisk is a volume and, when connected, its device.
type fakeDisk struct {
	backendSize       volume.Size
	connected         bool
	deleted           bool // the backend has deleted the volume, but its device is still there
	readOnly          bool
	readOnlyByConnect bool // read-only because Connect was asked for it
	number            uint32
	path              string
	deviceSize        volume.Size // what the device shows
	ignoresRescan     bool        // a rescan changes nothing
	content           filesystem.Signature
	mappingSize       volume.Size // size of a mapping on the disk; zero: none
	luks              luksState
	serial            string                 // the volume it really is; empty: the right one
	reportsFalseSize  bool                   // an awaited size is reported as reached although it is not
	hasOtherMapping   bool                   // the mapping on it is not of dm-crypt
	mountFailure      error                  // error of its mounted filesystem
	awaitTimeout      time.Duration          // how long the last wait for its size could have lasted
	refusesDiscards   map[uint32]bool        // by the major number of the disk or its mapping
	openHandles       int                    // descriptors that are open
	staysPlugged      bool                   // a hypervisor has plugged it in: Disconnect flushes it, and it stays
	plugCount         int                    // how often it was connected
	formatCount       int                    // how often mkfs has run
	measured          filesystem.Measurement // what is wrong with its mounted filesystem

	conn              volume.Connection // what the connector returns beside path and size
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
		disks: map[string]*fakeDisk{}, mappedDisks: map[string]*fakeDisk{}, nextID: 100, fail: map[string]error{},
		hooks:  map[string]func(){},
		events: make(chan blockdev.SizeEvent),
	}
}

// add makes a volume in the backend.
func (m *machine) add(id string, size volume.Size) *fakeDisk {
	d := &fakeDisk{
		backendSize: size, number: uint32(len(m.disks) + 1), content: filesystem.Signature{State: filesystem.StateBlank},
	}
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

// checkInTime returns the error of a call that waits for a device or a mount after its context has
// ended.
func checkInTime(ctx context.Context, what string) error {
	if ctx.Err() == nil {
		return nil
	}
	return volume.Errorf(volume.KindOf(ctx.Err()), "%s: no answer in time: %w", what, ctx.Err())
}

// diskAt returns the disk with this path, or below the mapping with this path, and
// whether there is such a device.
func (m *machine) diskAt(path string) (*fakeDisk, bool) {
	for _, d := range m.disks {
		switch path {
		case d.path:
			return d, d.connected
		case d.path + "-crypt": // it stays after its disk
			return d, d.hasMapping()
		}
	}
	return nil, false
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

// diskOfDevice returns the disk of a device, or of the mapping, that has this number.
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

// descriptors returns the number of open descriptors of a disk, or of the mapping on it.
func (d *fakeDisk) descriptors(dev blockdev.DeviceNumber) *int {
	if dev.Major == cryptMajor {
		return &d.luks.openHandles
	}
	return &d.openHandles
}

// luksState is the LUKS header of a disk and its mapping. fakeDisk.content is what the mapping
// shows; on the disk itself the header hides it.
type luksState struct {
	header         luks.Header
	passphrase     string
	readOnly       bool // the mapping is
	keyInKeyring   bool // only the kernel has the key of the mapping
	openHandles    int  // descriptors of the mapping that are open
	plugCount      int  // of the disk when the mapping was opened: a disk that is plugged in again is another disk
	killNextFormat bool // the next luksFormat is killed before it has made a key slot
}

// hasMapping reports whether any mapping rests on the disk.
func (d *fakeDisk) hasMapping() bool { return d.mappingSize > 0 || d.hasOtherMapping }

// mappingGone reports whether the mapping has lost the disk below it.
func (d *fakeDisk) mappingGone() bool { return !d.connected || d.plugCount != d.luks.plugCount }

// mappingNumberOf is the device number of the mapping on a disk.
func mappingNumberOf(d *fakeDisk) blockdev.DeviceNumber {
	return blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}
}

// addMount mounts something on the machine that the service has not mounted.
func (m *machine) addMount(path string, mount filesystem.Mount) filesystem.Mount {
	mount.MountPoint = path
	if mount.Options == nil {
		mount.Options = []string{"rw"}
	}
	fakeFilesystems{m}.mount(mount)
	return m.mounts[len(m.mounts)-1]
}

// mountOf is a mount of the filesystem on a disk.
func mountOf(d *fakeDisk) filesystem.Mount {
	return filesystem.Mount{FSType: "ext4", Root: "/", Source: d.path, Device: diskNumberOf(d)}
}

// mountOfMapping is a mount of the filesystem on the mapping of a disk.
func mountOfMapping(d *fakeDisk) filesystem.Mount {
	m := mountOf(d)
	m.Device.Major, m.Source = cryptMajor, d.path+"-crypt"
	return m
}

// nodeMountOf is a bind mount of the node of a disk.
func nodeMountOf(d *fakeDisk) filesystem.Mount {
	return filesystem.Mount{
		FSType: "devtmpfs", Root: "/" + filepath.Base(d.path), Source: "devtmpfs", Device: blockdev.DeviceNumber{Minor: 5},
		DeviceNode: diskNumberOf(d),
	}
}

// tmpfs is a mount of a directory of a tmpfs, or of all of it.
func tmpfs(root string) filesystem.Mount {
	return filesystem.Mount{FSType: "tmpfs", Root: root, Source: "tmpfs", Device: blockdev.DeviceNumber{Minor: 40}}
}

// deletedMount is m after its root was removed.
func deletedMount(m filesystem.Mount) filesystem.Mount {
	m.Root += "//deleted"
	return m
}

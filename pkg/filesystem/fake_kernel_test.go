package filesystem

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeKernel behaves as the measured kernels do. A request that would crash a real kernel,
// or damage a filesystem, fails the test. Errors can be set per call.
type fakeKernel struct {
	t              *testing.T
	mu             sync.Mutex
	devices        map[string]*fakeDevice
	mountsByPath   map[string]*fakeMount
	table          []Mount
	capabilityBits uint32
	errors         map[string][]error // by call; each error is used once
	calls          []string           // the calls that change something
}

func newFakeKernel(t *testing.T) *fakeKernel {
	t.Helper()
	return &fakeKernel{
		t: t, devices: map[string]*fakeDevice{}, mountsByPath: map[string]*fakeMount{}, errors: map[string][]error{},
		capabilityBits: 1 << unix.CAP_SYS_RESOURCE,
	}
}

func (k *fakeKernel) system() *System {
	s := New(Options{})
	s.kernel, s.retryInterval = k, time.Millisecond
	return s
}

// nextError returns the next error that is set for a call. A nil in the list lets one call
// succeed.
func (k *fakeKernel) nextError(call string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := k.errors[call]
	if len(list) == 0 {
		return nil
	}
	k.errors[call] = list[1:]
	return list[0]
}

func (k *fakeKernel) record(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = append(k.calls, fmt.Sprintf(format, args...))
}

func (k *fakeKernel) openMount(path string) (mountHandle, error) {
	if err := k.nextError("openMount"); err != nil {
		return nil, err
	}
	if m, ok := k.mountsByPath[path]; ok {
		return m, nil
	}
	return nil, unix.ENOENT
}

func (k *fakeKernel) statMount(path string) (mountStat, error) {
	if err := k.nextError("statMount"); err != nil {
		return mountStat{}, err
	}
	if m, ok := k.mountsByPath[path]; ok {
		return m.stat()
	}
	return mountStat{}, unix.ENOENT
}

func (k *fakeKernel) mounts() ([]Mount, error) { return k.table, k.nextError("mounts") }

func (k *fakeKernel) deviceNumber(path string) (blockdev.DeviceNumber, error) {
	if d, ok := k.devices[path]; ok {
		return d.id, nil
	}
	return blockdev.DeviceNumber{}, unix.ENOENT
}

func (k *fakeKernel) capabilities() (uint32, error) {
	return k.capabilityBits, k.nextError("capabilities")
}

func (k *fakeKernel) statfs(path string) (unix.Statfs_t, error) {
	if m, ok := k.mountsByPath[path]; ok {
		return m.statfs()
	}
	return unix.Statfs_t{}, unix.ENOENT
}

func (k *fakeKernel) mount(source, target, fstype string, flags uintptr, data string) error {
	k.record("mount %s %s %s %#x %s", source, target, fstype, flags, data)
	return k.nextError("mount")
}

func (k *fakeKernel) bind(source, target string, set, unset uint64) error {
	k.record("bind %s %s +%#x -%#x", source, target, set, unset)
	return k.nextError("bind")
}

func (k *fakeKernel) unmount(target string, _ int) error {
	k.record("unmount %s", target)
	return k.nextError("unmount")
}

// fakeDevice is an open block device, with its first bytes in memory.
type fakeDevice struct {
	k          *fakeKernel
	path       string
	id         blockdev.DeviceNumber
	bytes      uint64
	isReadOnly bool
	block      volume.Size
	head       []byte
}

func (k *fakeKernel) addDevice(path string, minor uint32, size volume.Size) *fakeDevice {
	d := &fakeDevice{
		k: k, path: path, id: blockdev.DeviceNumber{Major: 7, Minor: minor}, bytes: uint64(size),
		block: 512, head: make([]byte, 128<<10),
	}
	k.devices[path] = d
	return d
}

// device returns the device of testDevice.
func (k *fakeKernel) device() *fakeDevice { return k.devices[testDevice] }

func (dev *fakeDevice) Path() string                  { return dev.path }
func (dev *fakeDevice) Number() blockdev.DeviceNumber { return dev.id }
func (dev *fakeDevice) BlockSize() (volume.Size, error) {
	return dev.block, dev.k.nextError("blockSize")
}

// CheckPath and the methods below answer errors as those of blockdev.Handle do.
func (dev *fakeDevice) CheckPath() error {
	if number, err := dev.k.deviceNumber(dev.path); err != nil || number != dev.id {
		return volume.Errorf(volume.KindInternal, "%s now leads to block device %s, not to %s: %v", dev.path, number,
			dev.id, err).
			WithRemedy("check that the volume is still attached")
	}
	return nil
}

func (dev *fakeDevice) Size() (volume.Size, error) {
	if err := dev.k.nextError("size"); err != nil {
		return 0, volume.Errorf(volume.KindInternal, "read the size of %s: %w", dev.path, err)
	}
	return volume.Size(dev.bytes), nil
}

func (dev *fakeDevice) IsReadOnly() (bool, error) {
	if err := dev.k.nextError("readOnly"); err != nil {
		return false, volume.Errorf(volume.KindInternal, "read whether %s is read-only: %w", dev.path, err)
	}
	return dev.isReadOnly, nil
}

func (dev *fakeDevice) OpenWriter() (blockdev.Writer, error) {
	if err := dev.k.nextError("writer"); err != nil {
		kind := volume.KindInternal
		if errors.Is(err, unix.EBUSY) {
			kind = volume.KindDeadline
		}
		return nil, volume.Errorf(kind, "open %s: %w", dev.path, err)
	}
	return fakeWriter{dev}, nil
}

func (dev *fakeDevice) ReadAt(p []byte, at int64) (int, error) {
	if err := dev.k.nextError("read"); err != nil {
		return 0, err
	}
	clear(p)
	if at < int64(len(dev.head)) {
		copy(p, dev.head[at:])
	}
	if left := int64(dev.bytes) - at; int64(len(p)) > left {
		return int(max(left, 0)), io.EOF
	}
	return len(p), nil
}

// fakeWriter is a fakeDevice that is open for writing.
type fakeWriter struct{ device *fakeDevice }

func (fw fakeWriter) WriteAt(p []byte, at int64) (int, error) {
	d := fw.device
	d.k.record("write %d+%d", at, len(p))
	if err := d.k.nextError("write"); err != nil {
		return 0, err
	}
	if at < int64(len(d.head)) {
		copy(d.head[at:], p)
	}
	return len(p), nil
}

func (fw fakeWriter) Close() error { return nil }
func (fw fakeWriter) Sync() error  { return fw.device.k.nextError("sync") }

// fakeMount is a mounted filesystem.
type fakeMount struct {
	k      *fakeKernel
	device *fakeDevice
	magic  int64
	st     mountStat
	flags  int64
	xfs    xfsGeometry
	btrfs  btrfsDevice
	info   btrfsInfo
	// duringGrowth is called at the start of every growth.
	duringGrowth  func()
	ignoresGrowth bool // growth succeeds but changes nothing
	trims         []trimRange
	duringTrim    func() // called in every trim; nil: nothing happens
}

// addMount mounts the filesystem of a fake device.
func (k *fakeKernel) addMount(path, source string, fs Type) *fakeMount {
	d := k.devices[source]
	m := &fakeMount{k: k, device: d, magic: unix.EXT4_SUPER_MAGIC}
	switch fs {
	case TypeXFS:
		m.magic = unix.XFS_SUPER_MAGIC
	case TypeBtrfs:
		m.magic = unix.BTRFS_SUPER_MAGIC
	default:
	}
	m.st = mountStat{device: d.id, mountID: 100 + len(k.table), isRoot: true}
	entry := Mount{
		ID: m.st.mountID, Parent: 1, MountPoint: path, Root: "/", Device: d.id, FSType: string(fs), Source: source,
		Options: []string{"rw"}, SuperOptions: []string{"rw"},
	}
	if fs == TypeBtrfs {
		entry.Device = blockdev.DeviceNumber{Minor: 40}
	}
	if fs.IsExt() {
		entry.FSType = string(TypeExt4) // the driver of all three
	}
	k.table = append(k.table, entry)
	k.mountsByPath[path] = m
	return m
}

func (fm *fakeMount) Close() error             { return nil }
func (fm *fakeMount) stat() (mountStat, error) { return fm.st, fm.k.nextError("stat") }
func (fm *fakeMount) statfs() (unix.Statfs_t, error) {
	return unix.Statfs_t{
		Type: fm.magic, Flags: fm.flags, Frsize: 4096, Blocks: 1000, Bfree: 600, Bavail: 500, Files: 100, Ffree: 90,
	}, fm.k.nextError("statfs")
}

func (fm *fakeMount) xfsGeometry() (xfsGeometry, error) { return fm.xfs, fm.k.nextError("xfsGeometry") }

// trim discards a quarter of the range.
func (fm *fakeMount) trim(start, length uint64) (uint64, error) {
	if err := fm.k.nextError("trim"); err != nil {
		return 0, err
	}
	if start >= fm.device.bytes {
		return 0, unix.EINVAL
	}
	fm.trims = append(fm.trims, trimRange{start: start, length: length})
	if fm.duringTrim != nil {
		fm.duringTrim()
	}
	return min(length, fm.device.bytes-start) / 4, nil
}

func (fm *fakeMount) btrfsInfo() (btrfsInfo, error) { return fm.info, fm.k.nextError("btrfsInfo") }

func (fm *fakeMount) btrfsDevice(id uint64) (btrfsDevice, error) {
	if id != fm.btrfs.id {
		return btrfsDevice{}, unix.ENODEV
	}
	return fm.btrfs, fm.k.nextError("btrfsDevice")
}

// beginGrowth records a growth request and returns its error.
func (fm *fakeMount) beginGrowth(call string, blocks any) error {
	fm.k.record("%s %v", call, blocks)
	if fm.duringGrowth != nil {
		fm.duringGrowth()
	}
	return fm.k.nextError(call)
}

func (fm *fakeMount) ext4Resize(blocks uint64) error {
	if err := fm.beginGrowth("ext4Resize", blocks); err != nil || fm.ignoresGrowth {
		return err
	}
	s, ok := parseExt(fm.device.head[extOffset : extOffset+extLength])
	switch {
	case !ok:
		fm.k.t.Error("growth of something that is not ext")
	case fm.k.capabilityBits&(1<<unix.CAP_SYS_RESOURCE) == 0, s.hasErrors():
		return unix.EPERM
	case fm.device.isReadOnly || fm.flags&unix.ST_RDONLY != 0:
		return unix.EROFS
	case s.compat&extCompatSparseSuper2 != 0:
		return unix.EOPNOTSUPP
	case blocks < s.blocks:
		return unix.EINVAL
	case blocks*uint64(s.blockSize) > fm.device.bytes:
		return unix.ENOSPC
	case !s.has64bit() && blocks > 1<<32-1:
		fm.k.t.Error("kernel BUG at fs/ext4/resize.c: past 2^32 blocks without 64bit")
		return unix.EIO
	}
	blocks -= blocks % uint64(s.clusterRatio)
	group := (blocks - 1 - uint64(s.firstDataBlock)) / uint64(s.blocksPerGroup)
	first := group*uint64(s.blocksPerGroup) + uint64(s.firstDataBlock)
	itable := uint64(s.inodesPerGroup) * uint64(s.inodeSize) / uint64(s.blockSize)
	if first+2+itable+uint64(s.clusterRatio) >= blocks {
		blocks = max(first, s.blocks)
	}
	extSpecOf(s).withBlocks(blocks).writeTo(fm.device)
	return nil
}

func (fm *fakeMount) xfsGrow(blocks uint64, imaxpct uint32) error {
	if err := fm.beginGrowth("xfsGrow", blocks); err != nil || fm.ignoresGrowth {
		return err
	}
	switch {
	case fm.device.isReadOnly || fm.flags&unix.ST_RDONLY != 0:
		return unix.EROFS
	case blocks < fm.xfs.dataBlocks:
		fm.k.t.Errorf("XFS was shrunk from %d to %d blocks", fm.xfs.dataBlocks, blocks)
	case blocks*uint64(fm.xfs.blockSize) > fm.device.bytes:
		return unix.EIO
	}
	if tail := blocks % uint64(fm.xfs.agBlocks); tail < minXFSGroupBlocks {
		blocks -= tail
	}
	fm.xfs.imaxpct, fm.xfs.dataBlocks = imaxpct, blocks
	return nil
}

func (fm *fakeMount) btrfsResize(spec string) (int, error) {
	if err := fm.beginGrowth("btrfsResize", spec); err != nil || fm.ignoresGrowth {
		if e, ok := err.(btrfsError); ok { //nolint:errorlint // the test has set it as it is
			return int(e), nil
		}
		return 0, err
	}
	var id, size uint64
	if n, err := fmt.Sscanf(strings.Replace(spec, ":", " ", 1), "%d %d", &id, &size); n != 2 || err != nil ||
		id != fm.btrfs.id {
		fm.k.t.Errorf("btrfs resize %q", spec)
		return 0, unix.EINVAL
	}
	switch {
	case fm.flags&unix.ST_RDONLY != 0:
		return 0, unix.EROFS
	case size < fm.btrfs.totalBytes:
		fm.k.t.Errorf("btrfs was shrunk from %d to %d bytes", fm.btrfs.totalBytes, size)
	case size > fm.device.bytes:
		return 0, unix.EFBIG
	}
	fm.btrfs.totalBytes = size &^ 4095
	return 0, nil
}

// resolvedTempDir returns t.TempDir without symbolic links, as the mount table shows it.
func resolvedTempDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

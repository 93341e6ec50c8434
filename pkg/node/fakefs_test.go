package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeFilesystems implements Filesystems.
type fakeFilesystems struct{ *machine }

// held returns the disk of a device that is open.
func (f fakeFilesystems) held(dev filesystem.Device) (*disk, error) {
	h, ok := dev.(*openVolume)
	if !ok {
		return nil, errors.New("not a device that the service has opened")
	}
	handle, ok := h.OpenDevice.(fakeHandle)
	if !ok {
		return nil, errors.New("not a device of this machine")
	}
	return handle.d, handle.usable()
}

// rests reports whether m is a mount of the filesystem on the disk, or on the
// mapping on it.
func (m *machine) rests(mount filesystem.Mount, d *disk) bool {
	if mount.FSType == string(filesystem.TypeBtrfs) { // its number is anonymous
		on, _ := m.diskAt(mount.Source)
		return on == d
	}
	return below(mount.Device) == numberOf(d)
}

// below is the number of the disk of a device, which is that disk or the
// mapping on it.
func below(number blockdev.DeviceNumber) blockdev.DeviceNumber {
	if number.Major == cryptMajor {
		number.Major = diskMajor
	}
	return number
}

// user returns what uses a device: where it is mounted, or published as a raw
// device, and of a disk the mapping on it.
func (m *machine) user(d *disk, number blockdev.DeviceNumber) (path string, used bool) {
	if number == numberOf(d) && d.hasMapping() {
		return d.path + "-crypt", true
	}
	for _, mount := range m.mounts {
		if m.rests(mount, d) || below(mount.DeviceNode) == numberOf(d) && !mount.IsStaleDeviceNode() {
			return mount.MountPoint, true
		}
	}
	return "", false
}

func (f fakeFilesystems) Probe(ctx context.Context, dev filesystem.Device) (filesystem.Signature, error) {
	leave, err := f.enter("probe")
	defer leave()
	if err == nil {
		err = inTime(ctx, "probe")
	}
	if err != nil {
		return filesystem.Signature{}, err
	}
	d, err := f.held(dev)
	if err != nil {
		return filesystem.Signature{}, err
	}
	return d.holds(dev.Number()), nil
}

// holds returns what is found on a disk, or on the mapping on it.
func (d *disk) holds(dev blockdev.DeviceNumber) filesystem.Signature {
	if dev == numberOf(d) && d.luks.header.State != luks.HeaderAbsent {
		return filesystem.Signature{State: filesystem.StateForeign, IsRecognized: true, Content: "LUKS encryption"}
	}
	return d.content
}

func (f fakeFilesystems) Format(ctx context.Context, req filesystem.FormatRequest) error {
	leave, err := f.enter("format")
	formatting := f.formatting
	leave()
	if formatting != nil {
		<-formatting
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = ctx.Err() // mkfs was killed
	}
	if err != nil {
		return err
	}
	d, err := f.held(req.Device)
	if err != nil {
		return err
	}
	number := req.Device.Number()
	content := d.holds(number)
	_, markerErr := os.Stat(req.Marker)
	resumed := markerErr == nil && content.State == filesystem.StateFormatted && !content.IsComplete && content.Type == req.Type
	switch path, used := f.user(d, number); {
	case content.State == filesystem.StateFormatted && content.IsComplete && content.Type == req.Type:
		return filesystem.RemoveMarker(req.Marker)
	case content.State != filesystem.StateBlank && !resumed && (!req.IsEncrypted || !content.IsRandom):
		return volume.Errorf(volume.KindPrecondition, "%s holds %s", req.Device.Path(), content)
	case used:
		return volume.Errorf(volume.KindDeadline, "%s is in use at %s", req.Device.Path(), path)
	}
	for _, m := range f.mounts {
		if below(m.DeviceNode) == numberOf(d) {
			f.harm = append(f.harm, "formatted under the raw device at "+m.MountPoint)
		}
	}
	d.content = filesystem.Signature{State: filesystem.StateFormatted, IsComplete: true, Type: req.Type, Size: d.sizeOf(number)}
	d.formatted++
	return filesystem.RemoveMarker(req.Marker)
}

func (f fakeFilesystems) Check(ctx context.Context, dev filesystem.Device, _ filesystem.Type) error {
	leave, err := f.enter("check")
	checking := f.checking
	leave()
	if checking != nil {
		<-checking
	}
	if err == nil {
		err = ctx.Err() // e2fsck was killed
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err = f.held(dev)
	return err
}

func (f fakeFilesystems) mount(m filesystem.Mount) {
	for _, o := range f.mounts {
		if m.IsDeviceNode() && below(o.Device) == below(m.DeviceNode) || o.IsDeviceNode() && below(o.DeviceNode) == below(m.Device) {
			f.harm = append(f.harm, "one disk is mounted and raw at "+o.MountPoint+" and "+m.MountPoint)
		}
	}
	f.nextID++
	m.ID = f.nextID
	f.mounts = append(f.mounts, m)
}

func (f fakeFilesystems) Mount(ctx context.Context, req filesystem.MountRequest) error {
	leave, err := f.enter("mount")
	defer leave()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	d, err := f.held(req.Device)
	if info, statErr := os.Stat(req.Target); err == nil && (statErr != nil || !info.IsDir()) {
		err = unix.ENOTDIR
	}
	number, fstype := req.Device.Number(), req.Type
	if err == nil && number == numberOf(d) && d.hasMapping() {
		err = unix.EBUSY
	}
	if err != nil || d.holds(number).State != filesystem.StateFormatted || !d.holds(number).IsComplete {
		return volume.Errorf(volume.KindPrecondition, "mount %s: no filesystem: %w", req.Device.Path(), errors.Join(err, unix.EINVAL))
	}
	switch req.Type {
	case filesystem.TypeBtrfs:
		number = blockdev.DeviceNumber{Minor: 1000 + d.number}
	case filesystem.TypeExt2:
		fstype = filesystem.TypeExt4 // the driver that serves it
	default:
	}
	f.mount(filesystem.Mount{
		MountPoint: req.Target, Root: "/", Device: number, FSType: string(fstype), Source: req.Device.Path(),
		Options: modeOf(req.Options), SuperOptions: modeOf(req.Options),
	})
	return nil
}

func modeOf(flags []string) []string {
	if filesystem.RequestsReadOnly(flags) {
		return []string{"ro"}
	}
	return []string{"rw"}
}

func (f fakeFilesystems) Bind(ctx context.Context, req filesystem.BindRequest) error {
	leave, err := f.enter("bind")
	defer leave()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	if d, ok := f.diskAt(req.Source); ok {
		return f.bindNode(d, req)
	}
	if info, err := os.Stat(req.Target); err != nil || !info.IsDir() {
		return volume.Errorf(volume.KindInternal, "bind %s at %s: %w", req.Source, req.Target, errors.Join(err, unix.ENOTDIR))
	}
	if i := f.top(req.Source); i >= 0 {
		m := f.mounts[i]
		m.MountPoint = req.Target
		if !m.IsReadOnly() { // the flags of the source stay
			m.Options = modeOf(req.Options)
		}
		f.mount(m)
		return nil
	}
	if info, err := os.Stat(req.Source); err != nil || !info.IsDir() {
		return volume.Errorf(volume.KindInternal, "bind %s at %s: %w", req.Source, req.Target, errors.Join(err, unix.ENOTDIR))
	}
	// A plain directory is one of the node's own disk.
	f.mount(filesystem.Mount{
		MountPoint: req.Target, Root: req.Source, Device: blockdev.DeviceNumber{Major: 8, Minor: 1}, FSType: "ext4", Source: "/dev/root",
		Options: modeOf(req.Options),
	})
	return nil
}

// bindNode makes the target the device node of a disk, or of the mapping on it.
// The machine is locked.
func (f fakeFilesystems) bindNode(d *disk, req filesystem.BindRequest) error {
	number := device(d, req.Source).Number()
	if err := os.Remove(req.Target); err != nil {
		return err
	}
	if err := unix.Mknod(req.Target, unix.S_IFBLK|0o600, int(unix.Mkdev(number.Major, number.Minor))); err != nil {
		return err
	}
	f.mount(filesystem.Mount{
		MountPoint: req.Target, Root: "/" + filepath.Base(req.Source), FSType: "devtmpfs", Source: "devtmpfs", Options: modeOf(req.Options),
		Device: blockdev.DeviceNumber{Minor: 5}, DeviceNode: number,
	})
	return nil
}

func (f fakeFilesystems) Unmount(ctx context.Context, m filesystem.Mount) error {
	leave, err := f.enter("unmount")
	unmounting := f.unmounting
	leave()
	if unmounting != nil {
		<-unmounting
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	i := slices.IndexFunc(f.mounts, func(o filesystem.Mount) bool { return o.ID == m.ID })
	if i < 0 {
		return nil
	}
	if top := f.top(m.MountPoint); top != i {
		return volume.Errorf(volume.KindPrecondition, "%s is mounted on top of it", f.mounts[top].Source)
	}
	f.mounts = slices.Delete(f.mounts, i, i+1)
	if below := f.top(m.MountPoint); m.IsDeviceNode() && (below < 0 || !f.mounts[below].IsDeviceNode()) {
		_ = os.WriteFile(m.MountPoint+".tmp", nil, 0o600)
		_ = os.Rename(m.MountPoint+".tmp", m.MountPoint)
	}
	for _, d := range f.disks { // what is mounted anew is alive
		if !slices.ContainsFunc(f.mounts, func(m filesystem.Mount) bool { return f.rests(m, d) }) {
			d.dead = nil
		}
	}
	return nil
}

// top is the index of the topmost mount at a path, or -1.
func (f fakeFilesystems) top(path string) int {
	for i, m := range slices.Backward(f.mounts) {
		if m.MountPoint == path {
			return i
		}
	}
	return -1
}

func (f fakeFilesystems) FindMount(path string) (filesystem.Mount, bool, error) {
	leave, err := f.enter("find-mount")
	looking := f.looking
	leave()
	if looking != nil {
		<-looking
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.top(path); i >= 0 && err == nil {
		return f.mounts[i], true, nil
	}
	return filesystem.Mount{}, false, err
}

func (f fakeFilesystems) MountsOf(ctx context.Context, number blockdev.DeviceNumber) ([]filesystem.Mount, error) {
	leave, err := f.enter("mounts-of")
	defer leave()
	if err == nil {
		err = inTime(ctx, "the mounts")
	}
	if err != nil {
		return nil, err
	}
	var of []filesystem.Mount
	for _, m := range f.mounts {
		if f.numberOf(m) == number || m.Device == number || m.DeviceNode == number {
			of = append(of, m)
		}
	}
	return of, nil
}

// numberOf is the number of the device below a mounted filesystem.
func (m *machine) numberOf(mount filesystem.Mount) blockdev.DeviceNumber {
	if mount.FSType != string(filesystem.TypeBtrfs) {
		return mount.Device
	}
	if d, connected := m.diskAt(mount.Source); connected {
		return device(d, mount.Source).Number()
	}
	return mount.Device
}

// mountedAt returns the mount at a path and the disk of the device, if these
// belong together.
func (f fakeFilesystems) mountedAt(dev filesystem.Device, path string) (filesystem.Mount, *disk, error) {
	i := f.top(path)
	if i < 0 {
		return filesystem.Mount{}, nil, volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", path)
	}
	m := f.mounts[i]
	d, err := f.held(dev)
	if err == nil && f.numberOf(m) != dev.Number() {
		err = volume.Errorf(volume.KindPrecondition, "the mount at %s is of %s, not of the volume's device %s", path, m.Source, dev.Path())
	}
	return m, d, err
}

func (f fakeFilesystems) Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error) {
	leave, err := f.enter("grow")
	growing, started := f.growing, f.started
	var goal volume.Size // the device as it is at first
	if d, heldErr := f.held(req.Device); heldErr == nil {
		goal = d.sizeOf(req.Device.Number())
	}
	leave()
	if started != nil {
		close(started)
	}
	if growing != nil {
		<-growing
	}
	if err != nil {
		return filesystem.Growth{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m, d, err := f.mountedAt(req.Device, req.MountPoint)
	if err != nil {
		return filesystem.Growth{}, err
	}
	size := d.content.Size
	g := filesystem.Growth{Before: size, After: size, DeviceSize: goal, Method: filesystem.MethodNone}
	switch {
	case g.DeviceSize < req.Required:
		return g, volume.Errorf(volume.KindDeadline, "%s has %s, not %s", req.Device.Path(), g.DeviceSize, req.Required)
	case size > g.DeviceSize:
		return g, volume.Errorf(volume.KindPrecondition, "the filesystem has %s, more than its device with %s", size, g.DeviceSize)
	case d.dead != nil:
		return g, d.dead
	case size == g.DeviceSize:
		return g, nil
	case m.IsReadOnly() || d.refusesWrites(req.Device.Number()):
		return g, volume.Errorf(volume.KindPrecondition, "the filesystem at %s is read-only", req.MountPoint)
	case ctx.Err() != nil && growing == nil: // not begun
		return g, ctx.Err()
	}
	d.content.Size = g.DeviceSize
	g.After, g.Method = g.DeviceSize, filesystem.MethodIoctl
	return g, nil
}

func (f fakeFilesystems) CheckHealth(ctx context.Context, dev filesystem.Device, path string) error {
	leave, err := f.enter("alive")
	defer leave()
	if err == nil {
		err = inTime(ctx, path)
	}
	if err != nil {
		return err
	}
	_, d, err := f.mountedAt(dev, path)
	if err == nil {
		err = d.dead
	}
	return err
}

func (f fakeFilesystems) Measure(ctx context.Context, dev filesystem.Device, path string) (filesystem.Measurement, error) {
	leave, err := f.enter("measure")
	defer leave()
	if err == nil {
		err = inTime(ctx, path)
	}
	if err != nil {
		return filesystem.Measurement{}, err
	}
	_, d, err := f.mountedAt(dev, path)
	if err != nil {
		return filesystem.Measurement{}, err
	}
	m := d.measured
	if m.Size == 0 && !m.IsShutDown {
		m.Size = d.content.Size
	}
	m.Type, m.DeviceSize = d.content.Type, d.sizeOf(dev.Number())
	m.FillsDevice = m.Size >= m.DeviceSize || m.FormatLimit > 0
	return m, nil
}

func (f fakeFilesystems) Propagates(string) (bool, error) {
	leave, err := f.enter("propagates")
	defer leave()
	return !f.private, err
}

func (f fakeFilesystems) ReadUsage(m filesystem.Mount) (filesystem.Usage, error) {
	leave, err := f.enter("stats")
	growing := f.growing
	leave()
	if growing != nil {
		<-growing
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.top(m.MountPoint); err == nil && (i < 0 || f.mounts[i].ID != m.ID) {
		err = volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", m.MountPoint)
	}
	return filesystem.Usage{Total: 90, Used: 30, Available: 60, Inodes: 9, InodesUsed: 3, InodesAvailable: 6}, err
}

func numberOf(d *disk) blockdev.DeviceNumber {
	return blockdev.DeviceNumber{Major: diskMajor, Minor: d.number}
}

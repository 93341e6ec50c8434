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
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeFilesystems implements Filesystems.
type fakeFilesystems struct{ *machine }

// diskOf returns the disk of a device that is open.
func (f fakeFilesystems) diskOf(dev filesystem.Device) (*fakeDisk, error) {
	h, ok := dev.(*inspect.Volume)
	if !ok {
		return nil, errors.New("not a device that the service has opened")
	}
	handle, ok := h.OpenDevice.(fakeHandle)
	if !ok {
		return nil, errors.New("not a device of this machine")
	}
	return handle.d, handle.usable()
}

func (f fakeFilesystems) Probe(ctx context.Context, dev filesystem.Device) (filesystem.Signature, error) {
	leave, err := f.startCall("probe")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "probe")
	}
	if err != nil {
		return filesystem.Signature{}, err
	}
	d, err := f.diskOf(dev)
	if err != nil {
		return filesystem.Signature{}, err
	}
	return d.contentOf(dev.Number()), nil
}

func (f fakeFilesystems) Format(ctx context.Context, req filesystem.FormatRequest) error {
	leave, err := f.startCall("format")
	formatting := f.holdFormat
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
	d, err := f.diskOf(req.Device)
	if err != nil {
		return err
	}
	number := req.Device.Number()
	content := d.contentOf(number)
	_, markerErr := os.Stat(req.Marker)
	resumed := markerErr == nil && content.State == filesystem.StateFormatted && !content.IsComplete &&
		content.Type == req.Type
	switch path, used := f.findUser(d, number); {
	case content.State == filesystem.StateFormatted && content.IsComplete && content.Type == req.Type:
		return filesystem.RemoveMarker(req.Marker)
	case content.State != filesystem.StateBlank && !resumed && (!req.IsEncrypted || !content.IsRandom):
		return volume.Errorf(volume.KindPrecondition, "%s holds %s", req.Device.Path(), content)
	case used:
		return volume.Errorf(volume.KindDeadline, "%s is in use at %s", req.Device.Path(), path)
	}
	for _, m := range f.mounts {
		if diskNumber(m.DeviceNode) == diskNumberOf(d) {
			f.violations = append(f.violations, "formatted under the raw device at "+m.MountPoint)
		}
	}
	d.content = filesystem.Signature{
		State: filesystem.StateFormatted, IsComplete: true, Type: req.Type, Size: d.sizeOf(number),
	}
	d.formatCount++
	return filesystem.RemoveMarker(req.Marker)
}

func (f fakeFilesystems) Check(ctx context.Context, dev filesystem.Device, _ filesystem.Type) error {
	leave, err := f.startCall("check")
	checking := f.holdCheck
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
	_, err = f.diskOf(dev)
	return err
}

func (f fakeFilesystems) mount(m filesystem.Mount) {
	for _, o := range f.mounts {
		if m.IsDeviceNode() && diskNumber(o.Device) == diskNumber(m.DeviceNode) || o.IsDeviceNode() &&
			diskNumber(o.DeviceNode) == diskNumber(m.Device) {
			f.violations = append(f.violations, "one disk is mounted and raw at "+o.MountPoint+" and "+m.MountPoint)
		}
	}
	f.nextID++
	m.ID = f.nextID
	f.mounts = append(f.mounts, m)
}

func (f fakeFilesystems) Mount(ctx context.Context, req filesystem.MountRequest) error {
	leave, err := f.startCall("mount")
	defer leave()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	d, err := f.diskOf(req.Device)
	if info, statErr := os.Stat(req.Target); err == nil && (statErr != nil || !info.IsDir()) {
		err = unix.ENOTDIR
	}
	number, fstype := req.Device.Number(), req.Type
	if err == nil && number == diskNumberOf(d) && d.hasMapping() {
		err = unix.EBUSY
	}
	if err != nil || d.contentOf(number).State != filesystem.StateFormatted || !d.contentOf(number).IsComplete {
		return volume.Errorf(
			volume.KindPrecondition, "mount %s: no filesystem: %w", req.Device.Path(), errors.Join(err, unix.EINVAL),
		)
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
	leave, err := f.startCall("bind")
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
	if i := f.topMount(req.Source); i >= 0 {
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
	// A plain directory is on the node's own disk.
	f.mount(filesystem.Mount{
		MountPoint: req.Target, Root: req.Source, Device: blockdev.DeviceNumber{Major: 8, Minor: 1}, FSType: "ext4",
		Source:  "/dev/root",
		Options: modeOf(req.Options),
	})
	return nil
}

// bindNode makes the target the device node of a disk, or of the mapping on it. The
// machine is locked.
func (f fakeFilesystems) bindNode(d *fakeDisk, req filesystem.BindRequest) error {
	number := device(d, req.Source).Number()
	if err := os.Remove(req.Target); err != nil {
		return err
	}
	if err := unix.Mknod(req.Target, unix.S_IFBLK|0o600, int(unix.Mkdev(number.Major, number.Minor))); err != nil {
		return err
	}
	f.mount(filesystem.Mount{
		MountPoint: req.Target, Root: "/" + filepath.Base(req.Source), FSType: "devtmpfs", Source: "devtmpfs",
		Options: modeOf(req.Options),
		Device:  blockdev.DeviceNumber{Minor: 5}, DeviceNode: number,
	})
	return nil
}

func (f fakeFilesystems) Unmount(ctx context.Context, m filesystem.Mount) error {
	leave, err := f.startCall("unmount")
	unmounting := f.holdUnmount
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
	if top := f.topMount(m.MountPoint); top != i {
		return volume.Errorf(volume.KindPrecondition, "%s is mounted on top of it", f.mounts[top].Source)
	}
	f.mounts = slices.Delete(f.mounts, i, i+1)
	if below := f.topMount(m.MountPoint); m.IsDeviceNode() && (below < 0 || !f.mounts[below].IsDeviceNode()) {
		_ = os.WriteFile(m.MountPoint+".tmp", nil, 0o600)
		_ = os.Rename(m.MountPoint+".tmp", m.MountPoint)
	}
	for _, d := range f.disks { // a filesystem that is mounted again has no failure
		if !slices.ContainsFunc(f.mounts, func(m filesystem.Mount) bool { return f.isOnDisk(m, d) }) {
			d.mountFailure = nil
		}
	}
	return nil
}

// topMount is the index of the topmost mount at a path, or -1.
func (f fakeFilesystems) topMount(path string) int {
	for i, m := range slices.Backward(f.mounts) {
		if m.MountPoint == path {
			return i
		}
	}
	return -1
}

func (f fakeFilesystems) FindMount(path string) (filesystem.Mount, bool, error) {
	leave, err := f.startCall("find-mount")
	hold := f.holdFindMount
	leave()
	if hold != nil {
		<-hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.topMount(path); i >= 0 && err == nil {
		return f.mounts[i], true, nil
	}
	return filesystem.Mount{}, false, err
}

func (f fakeFilesystems) MountsOf(ctx context.Context, number blockdev.DeviceNumber) ([]filesystem.Mount, error) {
	leave, err := f.startCall("mounts-of")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, "the mounts")
	}
	if err != nil {
		return nil, err
	}
	var of []filesystem.Mount
	for _, m := range f.mounts {
		if f.deviceNumberOf(m) == number || m.Device == number || m.DeviceNode == number {
			of = append(of, m)
		}
	}
	return of, nil
}

// mountedAt returns the mount at a path and the disk of the device, if the mount is of that disk.
func (f fakeFilesystems) mountedAt(dev filesystem.Device, path string) (filesystem.Mount, *fakeDisk, error) {
	i := f.topMount(path)
	if i < 0 {
		return filesystem.Mount{}, nil, volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", path)
	}
	m := f.mounts[i]
	d, err := f.diskOf(dev)
	if err == nil && f.deviceNumberOf(m) != dev.Number() {
		err = volume.Errorf(
			volume.KindPrecondition, "the mount at %s is of %s, not of the volume's device %s", path, m.Source, dev.Path(),
		)
	}
	return m, d, err
}

func (f fakeFilesystems) Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error) {
	leave, err := f.startCall("grow")
	growing, started := f.holdGrow, f.growStarted
	var goal volume.Size // the device as it is at first
	if d, heldErr := f.diskOf(req.Device); heldErr == nil {
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
		return g, volume.Errorf(
			volume.KindPrecondition, "the filesystem has %s, more than its device with %s", size, g.DeviceSize,
		)
	case d.mountFailure != nil:
		return g, d.mountFailure
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

// Trim discards 1 GiB, and then another one once holdTrim is closed, unless ctx has ended.
func (f fakeFilesystems) Trim(ctx context.Context, req filesystem.TrimRequest) (volume.Size, error) {
	leave, err := f.startCall("trim")
	hold, started := f.holdTrim, f.trimStarted
	if err == nil {
		_, _, err = f.mountedAt(req.Device, req.MountPoint)
	}
	leave()
	if started != nil {
		close(started)
	}
	if hold != nil {
		<-hold
	}
	switch {
	case err != nil:
		return 0, err
	case ctx.Err() != nil:
		return volume.GiB, volume.Errorf(volume.KindOf(ctx.Err()), "the trim has ended early: %w", ctx.Err())
	}
	return 2 * volume.GiB, nil
}

func (f fakeFilesystems) CheckHealth(ctx context.Context, dev filesystem.Device, path string) error {
	leave, err := f.startCall("alive")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, path)
	}
	if err != nil {
		return err
	}
	_, d, err := f.mountedAt(dev, path)
	if err == nil {
		err = d.mountFailure
	}
	return err
}

func (f fakeFilesystems) Measure(
	ctx context.Context, dev filesystem.Device, path string,
) (filesystem.Measurement, error) {
	leave, err := f.startCall("measure")
	defer leave()
	if err == nil {
		err = checkInTime(ctx, path)
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
	leave, err := f.startCall("propagates")
	defer leave()
	return !f.mountsArePrivate, err
}

func (f fakeFilesystems) ReadUsage(m filesystem.Mount) (filesystem.Usage, error) {
	leave, err := f.startCall("stats")
	growing := f.holdGrow
	leave()
	if growing != nil {
		<-growing
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.topMount(m.MountPoint); err == nil && (i < 0 || f.mounts[i].ID != m.ID) {
		err = volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at %s", m.MountPoint)
	}
	return filesystem.Usage{Total: 90, Used: 30, Available: 60, Inodes: 9, InodesUsed: 3, InodesAvailable: 6}, err
}

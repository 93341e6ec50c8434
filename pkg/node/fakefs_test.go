package node

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeFilesystems implements Filesystems.
type fakeFilesystems struct{ *machine }

func (f fakeFilesystems) Probe(_ context.Context, dev filesystem.Device) (filesystem.Signature, error) {
	leave, err := f.enter("probe")
	defer leave()
	d, _ := f.diskAt(dev.Path())
	if err != nil {
		return filesystem.Signature{}, err
	}
	return d.content, nil
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
	d, _ := f.diskAt(req.Device.Path())
	if ctx.Err() != nil {
		return ctx.Err() // mkfs was killed
	}
	for _, m := range f.mounts {
		if m.Node == numberOf(d) {
			f.harm = append(f.harm, "formatted under the raw device at "+m.Mountpoint)
		}
	}
	if err == nil && d.content.State != filesystem.Blank && (!req.Encrypted || !d.content.Noise) {
		return volume.Errorf(volume.Precondition, "%s holds %s", req.Device.Path(), d.content)
	}
	if err == nil {
		d.content = filesystem.Signature{State: filesystem.Formatted, Complete: true, Type: req.Type, Size: d.shown}
	}
	return err
}

func (f fakeFilesystems) Check(ctx context.Context, _ filesystem.Device, _ filesystem.Type) error {
	leave, err := f.enter("check")
	checking := f.checking
	leave()
	if checking != nil {
		<-checking
	}
	if ctx.Err() != nil {
		return ctx.Err() // e2fsck was killed
	}
	return err
}

func (f fakeFilesystems) mount(m filesystem.Mount) {
	for _, o := range f.mounts {
		if m.IsNode() && o.Device == m.Node || o.IsNode() && o.Node == m.Device {
			f.harm = append(f.harm, "one disk is mounted and raw at "+o.Mountpoint+" and "+m.Mountpoint)
		}
	}
	f.nextID++
	m.ID = f.nextID
	f.mounts = append(f.mounts, m)
}

func (f fakeFilesystems) Mount(_ context.Context, req filesystem.MountRequest) error {
	leave, err := f.enter("mount")
	defer leave()
	d, ok := f.diskAt(req.Device.Path())
	if err != nil || !ok || d.content.State != filesystem.Formatted {
		return volume.Errorf(volume.Precondition, "mount %s: no filesystem (%w)", req.Device.Path(), err)
	}
	f.mount(filesystem.Mount{
		Mountpoint: req.Target, Root: "/", Device: blockdev.DeviceNumber{Major: diskMajor, Minor: d.number},
		FSType: string(req.Type), Source: d.path, Options: modeOf(req.Flags),
	})
	return nil
}

func modeOf(flags []string) []string {
	if filesystem.ReadOnlyFlags(flags) {
		return []string{"ro"}
	}
	return []string{"rw"}
}

func (f fakeFilesystems) Bind(_ context.Context, req filesystem.BindRequest) error {
	leave, err := f.enter("bind")
	defer leave()
	if err != nil {
		return err
	}
	if d, ok := f.diskAt(req.Source); ok { // the target becomes the device node
		if err := os.Remove(req.Target); err != nil {
			return err
		}
		if err := unix.Mknod(req.Target, unix.S_IFBLK|0o600, int(unix.Mkdev(diskMajor, d.number))); err != nil {
			return err
		}
		f.mount(filesystem.Mount{
			Mountpoint: req.Target, Root: "/" + filepath.Base(d.path), FSType: "devtmpfs", Source: "devtmpfs", Options: modeOf(req.Flags),
			Device: blockdev.DeviceNumber{Minor: 5}, Node: blockdev.DeviceNumber{Major: diskMajor, Minor: d.number},
		})
		return nil
	}
	for _, m := range slices.Backward(f.mounts) {
		if m.Mountpoint == req.Source {
			m.Mountpoint = req.Target
			if !m.ReadOnly() { // the flags of the source stay
				m.Options = modeOf(req.Flags)
			}
			f.mount(m)
			return nil
		}
	}
	return volume.Errorf(volume.Internal, "%s is no mount", req.Source)
}

func (f fakeFilesystems) Unmount(_ context.Context, m filesystem.Mount) error {
	leave, err := f.enter("unmount")
	unmounting := f.unmounting
	leave()
	if unmounting != nil {
		<-unmounting
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(f.mounts, func(o filesystem.Mount) bool { return o.ID == m.ID })
	if i < 0 {
		return nil
	}
	if top := f.top(m.Mountpoint); top != i {
		return volume.Errorf(volume.Precondition, "%s is mounted on top of it", f.mounts[top].Source)
	}
	f.mounts = slices.Delete(f.mounts, i, i+1)
	if below := f.top(m.Mountpoint); m.IsNode() && (below < 0 || !f.mounts[below].IsNode()) {
		_ = os.WriteFile(m.Mountpoint+".tmp", nil, 0o600)
		_ = os.Rename(m.Mountpoint+".tmp", m.Mountpoint)
	}
	for _, d := range f.disks { // what is mounted anew is alive
		if !slices.ContainsFunc(f.mounts, func(m filesystem.Mount) bool { return m.Device == numberOf(d) }) {
			d.dead = nil
		}
	}
	return nil
}

func numberOf(d *disk) blockdev.DeviceNumber {
	return blockdev.DeviceNumber{Major: diskMajor, Minor: d.number}
}

// top is the index of the topmost mount at a path, or -1.
func (f fakeFilesystems) top(path string) int {
	for i, m := range slices.Backward(f.mounts) {
		if m.Mountpoint == path {
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

func (f fakeFilesystems) MountsOf(_ context.Context, number blockdev.DeviceNumber) ([]filesystem.Mount, error) {
	leave, err := f.enter("mounts-of")
	defer leave()
	if err != nil {
		return nil, err
	}
	var of []filesystem.Mount
	for _, m := range f.mounts {
		if m.Device == number || m.Node == number {
			of = append(of, m)
		}
	}
	return of, nil
}

func (f fakeFilesystems) Grow(_ context.Context, req filesystem.GrowRequest) (filesystem.Growth, error) {
	leave, err := f.enter("grow")
	growing, started := f.growing, f.started
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
	d, _ := f.diskAt(req.Device.Path())
	g := filesystem.Growth{Before: d.content.Size, Device: d.shown, Method: filesystem.GrownByIoctl}
	if d.crypt > 0 {
		g.Device = d.crypt
	}
	if g.Device < req.Required {
		return g, volume.Errorf(volume.Deadline, "%s has %s, not %s", req.Device.Path(), g.Device, req.Required)
	}
	d.content.Size = g.Device
	g.After = g.Device
	return g, nil
}

func (f fakeFilesystems) Alive(_ context.Context, dev filesystem.Device, _ string) error {
	leave, err := f.enter("alive")
	defer leave()
	if d, _ := f.diskAt(dev.Path()); d != nil && d.dead != nil {
		return d.dead
	}
	return err
}

func (f fakeFilesystems) Measure(_ context.Context, dev filesystem.Device, _ string) (filesystem.Measurement, error) {
	leave, err := f.enter("measure")
	defer leave()
	d, _ := f.diskAt(dev.Path())
	if err != nil {
		return filesystem.Measurement{}, err
	}
	m := d.measured
	if m.Size == 0 && !m.ShutDown {
		m.Size = d.content.Size
	}
	m.Type, m.Device = d.content.Type, d.shown
	if d.crypt > 0 {
		m.Device = d.crypt
	}
	m.Fills = m.Size >= m.Device || m.Limited
	return m, nil
}

func (f fakeFilesystems) Propagates(string) (bool, error) {
	leave, err := f.enter("propagates")
	defer leave()
	return !f.private, err
}

func (f fakeFilesystems) Stats(filesystem.Mount) (filesystem.Usage, error) {
	leave, err := f.enter("stats")
	growing := f.growing
	leave()
	if growing != nil {
		<-growing
	}
	return filesystem.Usage{Total: 90, Used: 30, Available: 60, Inodes: 9, InodesUsed: 3, InodesAvailable: 6}, err
}

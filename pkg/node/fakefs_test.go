package node

import (
	"context"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeFilesystems implements Filesystems.
type fakeFilesystems struct{ *machine }

func (f fakeFilesystems) Probe(_ context.Context, path string) (filesystem.Signature, error) {
	leave, err := f.enter("probe")
	defer leave()
	d, _ := f.diskAt(path)
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
	d, _ := f.diskAt(req.Device)
	if ctx.Err() != nil {
		return ctx.Err() // mkfs was killed
	}
	if err == nil && d.content.State != filesystem.Blank && (!req.Encrypted || !d.content.Noise) {
		return volume.Errorf(volume.Precondition, "%s holds %s", req.Device, d.content)
	}
	if err == nil {
		d.content = filesystem.Signature{State: filesystem.Formatted, Complete: true, Type: req.Type, Size: d.shown}
	}
	return err
}

func (f fakeFilesystems) Check(ctx context.Context, _ string, _ filesystem.Type) error {
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
	f.nextID++
	m.ID = f.nextID
	f.mounts = append(f.mounts, m)
}

func (f fakeFilesystems) Mount(_ context.Context, req filesystem.MountRequest) error {
	leave, err := f.enter("mount")
	defer leave()
	d, ok := f.diskAt(req.Source)
	if err != nil || !ok || d.content.State != filesystem.Formatted {
		return volume.Errorf(volume.Precondition, "mount %s: no filesystem (%w)", req.Source, err)
	}
	f.mount(filesystem.Mount{
		Mountpoint: req.Target, Root: "/", Device: filesystem.DeviceNumber{Major: diskMajor, Minor: d.number},
		FSType: string(req.Type), Source: d.path, Options: modeOf(req.Flags),
	})
	return nil
}

func modeOf(flags []string) []string {
	if slices.Contains(flags, "ro") {
		return []string{"ro"}
	}
	return []string{"rw"}
}

func (f fakeFilesystems) Bind(_ context.Context, req filesystem.MountRequest) error {
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
		f.mount(filesystem.Mount{Mountpoint: req.Target, Root: d.path, FSType: "devtmpfs", Source: d.path, Options: modeOf(req.Flags)})
		return nil
	}
	for _, m := range f.mounts {
		if m.Mountpoint == req.Source {
			m.Mountpoint, m.Options = req.Target, modeOf(req.Flags)
			f.mount(m)
			return nil
		}
	}
	return volume.Errorf(volume.Internal, "%s is no mount", req.Source)
}

func (f fakeFilesystems) Unmount(_ context.Context, target string) error {
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
	f.mounts = slices.DeleteFunc(f.mounts, func(m filesystem.Mount) bool {
		if m.Mountpoint == target && m.FSType == "devtmpfs" {
			_ = os.WriteFile(target+".tmp", nil, 0o600)
			_ = os.Rename(target+".tmp", target)
		}
		return m.Mountpoint == target
	})
	for _, d := range f.disks { // what is mounted anew is alive
		if !slices.ContainsFunc(f.mounts, func(m filesystem.Mount) bool { return m.Source == d.path }) {
			d.dead = nil
		}
	}
	return nil
}

func (f fakeFilesystems) FindMount(path string) (filesystem.Mount, bool, error) {
	leave, err := f.enter("find-mount")
	defer leave()
	for _, m := range slices.Backward(f.mounts) {
		if m.Mountpoint == path {
			return m, true, err
		}
	}
	return filesystem.Mount{}, false, err
}

func (f fakeFilesystems) MountsOf(device string) ([]filesystem.Mount, error) {
	leave, err := f.enter("mounts-of")
	defer leave()
	d, _ := f.diskAt(device)
	var of []filesystem.Mount
	for _, m := range f.mounts {
		if d != nil && m.Source == d.path {
			of = append(of, m)
		}
	}
	return of, err
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
	d, _ := f.diskAt(req.Device)
	g := filesystem.Growth{Before: d.content.Size, Device: d.shown, Method: filesystem.GrownByIoctl}
	if d.crypt > 0 {
		g.Device = d.crypt
	}
	if g.Device < req.Required {
		return g, volume.Errorf(volume.Deadline, "%s has %s, not %s", req.Device, g.Device, req.Required)
	}
	d.content.Size = g.Device
	g.After = g.Device
	return g, nil
}

func (f fakeFilesystems) Alive(_ context.Context, device, _ string) error {
	leave, err := f.enter("alive")
	defer leave()
	if d, _ := f.diskAt(device); d != nil && d.dead != nil {
		return d.dead
	}
	return err
}

func (f fakeFilesystems) Propagates(string) (bool, error) {
	leave, err := f.enter("propagates")
	defer leave()
	return !f.private, err
}

func (f fakeFilesystems) Stats(string) (filesystem.Usage, error) {
	leave, err := f.enter("stats")
	growing := f.growing
	leave()
	if growing != nil {
		<-growing
	}
	return filesystem.Usage{Total: 90, Used: 30, Available: 60, Inodes: 9, InodesUsed: 3, InodesAvailable: 6}, err
}

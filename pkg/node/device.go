package node

import (
	"context"
	"errors"
	"slices"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
)

// Devices is what the service needs of the node's block devices;
// LocalDevices is the real one.
type Devices interface {
	ByPath(path string) (blockdev.Device, error)
	ByNumber(major, minor uint32) (blockdev.Device, error)
	Open(ctx context.Context, d blockdev.Device) (OpenDevice, error)
	Size(d blockdev.Device) (volume.Size, error)
	IsReadOnly(d blockdev.Device) (bool, error)
	WatchSizes(ctx context.Context, changed func(blockdev.SizeEvent)) error
	Stack(d blockdev.Device) ([]blockdev.Device, error)
	Holders(d blockdev.Device) ([]blockdev.Device, error)
	AwaitSize(ctx context.Context, d blockdev.Device, want volume.Size) (volume.Size, error)
}

// Mappings is what the service needs of the node's dm-crypt mappings;
// *luks.System is the real one.
type Mappings interface {
	Header(ctx context.Context, d blockdev.Device) (luks.Header, error)
	Format(ctx context.Context, req luks.FormatRequest) (h luks.Header, fresh bool, err error)
	Open(ctx context.Context, req luks.OpenRequest) (luks.Mapping, error)
	Find(ctx context.Context, id string) (m luks.Mapping, ok bool, err error)
	Grow(ctx context.Context, d blockdev.Device, passphrase []byte) (volume.Size, error)
	Close(ctx context.Context, id string) error
	CloseOn(ctx context.Context, id string, disk blockdev.Device) error
}

// Filesystems is what the service needs of the node's filesystems and mounts;
// *filesystem.System is the real one.
type Filesystems interface {
	Probe(ctx context.Context, dev filesystem.Device) (filesystem.Signature, error)
	Format(ctx context.Context, req filesystem.FormatRequest) error
	Check(ctx context.Context, dev filesystem.Device, t filesystem.Type) error
	Mount(ctx context.Context, req filesystem.MountRequest) error
	Bind(ctx context.Context, req filesystem.BindRequest) error
	Unmount(ctx context.Context, m filesystem.Mount) error
	FindMount(path string) (filesystem.Mount, bool, error)
	MountsOf(ctx context.Context, number blockdev.DeviceNumber) ([]filesystem.Mount, error)
	Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error)
	ReadUsage(m filesystem.Mount) (filesystem.Usage, error)
	CheckHealth(ctx context.Context, dev filesystem.Device, mountPoint string) error
	Measure(ctx context.Context, dev filesystem.Device, mountPoint string) (filesystem.Measurement, error)
	Propagates(path string) (bool, error)
}

// verifiedLayers walks from dev down to the whole disk and has the connector confirm
// that the disk is the volume. The last of the layers is the disk.
func (s *Server) verifiedLayers(ctx context.Context, id string, dev blockdev.Device) ([]blockdev.Device, error) {
	layers, err := s.opts.Devices.Stack(dev)
	if err != nil {
		return nil, err
	}
	return layers, s.opts.Connector.Verify(ctx, id, layers[len(layers)-1].Path)
}

// findMount is FindMount within the call's time: the look at a mount may hang
// with the filesystem. The lease's lock keeps the looks that hang to one a
// volume.
func (s *Server) findMount(ctx context.Context, l *operation.Lease, path string) (m filesystem.Mount, mounted bool, err error) {
	type found struct {
		filesystem.Mount

		mounted bool
	}
	f, err := operation.RunDetached(ctx, l, "looking at "+path, func() (found, error) {
		m, mounted, err := s.opts.Filesystems.FindMount(path)
		return found{m, mounted}, err
	})
	if err != nil && !l.IsHeld() {
		return filesystem.Mount{}, false, volume.Errorf(volume.KindOf(err), "what is mounted at %s does not answer: %w", path, ctx.Err()).
			WithRemedy("check whether the device of the mount is gone, or its filesystem frozen")
	}
	return f.Mount, f.mounted, err
}

// mountsOf is MountsOf within the call's time, without stale nodes: what has
// the number of the device may be the node of a disk that had it before.
func (s *Server) mountsOf(ctx context.Context, dev blockdev.Device) ([]filesystem.Mount, error) {
	mounts, err := s.opts.Filesystems.MountsOf(ctx, dev.Number())
	return slices.DeleteFunc(mounts, filesystem.Mount.IsStaleDeviceNode), err
}

// checkNoOtherUse refuses a volume whose device, or what lies below it, or rests on
// its disk beside it, is in use in another way than asked for, raw, mounted or
// encrypted: a pod that has a raw device open does not keep mkfs from it.
func (s *Server) checkNoOtherUse(ctx context.Context, id string, dev blockdev.Device, block bool) error {
	layers, err := s.opts.Devices.Stack(dev)
	if err != nil {
		return err
	}
	for i, layer := range layers {
		allowed := func(m filesystem.Mount) bool { return i == 0 && m.IsDeviceNode() == block }
		if err := s.checkMounts(ctx, layer, allowed); err != nil {
			return err
		}
	}
	return s.checkDevicesAbove(ctx, id, layers)
}

// checkMounts refuses a device with a mount that is not allowed; nil: none is.
func (s *Server) checkMounts(ctx context.Context, dev blockdev.Device, allowed func(filesystem.Mount) bool) error {
	mounts, err := s.mountsOf(ctx, dev)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if allowed != nil && allowed(m) {
			continue
		}
		how := "mounted"
		if m.IsDeviceNode() {
			how = "published as a raw device"
		}
		return volume.Errorf(volume.KindPrecondition, "the volume is %s at %s, and cannot be used in another way meanwhile", how, m.MountPoint).
			WithRemedy("delete the pod that uses it there")
	}
	return nil
}

// hasBlockDevice reports whether m rests on a block device, as far as the mount
// table tells. btrfs has an anonymous number; only its source tells the device.
func hasBlockDevice(m filesystem.Mount) bool {
	return m.IsDeviceNode() || m.Device.Major != 0 || m.FSType == string(filesystem.TypeBtrfs)
}

// deviceOfMount returns the block device of a mounted filesystem, or of a
// mounted device node. The error wraps volume.ErrGone when the kernel has that
// device no more.
func (s *Server) deviceOfMount(m filesystem.Mount) (blockdev.Device, error) {
	number := m.Device
	switch {
	case m.IsDeviceNode():
		number = m.DeviceNode
	case !hasBlockDevice(m):
		return blockdev.Device{}, volume.Errorf(volume.KindInternal, "what is mounted at %s (%s of %s) rests on no block device", m.MountPoint, m.FSType, m.Source)
	case m.Device.Major == 0:
		dev, err := s.opts.Devices.ByPath(m.Source)
		if err != nil {
			err = volume.Errorf(volume.KindOf(err), "the device of what is mounted at %s (%s of %s): %w", m.MountPoint, m.FSType, m.Source, err)
		}
		return dev, err
	}
	return s.opts.Devices.ByNumber(number.Major, number.Minor)
}

// isMountOf reports whether m is a mount of the filesystem on dev, or of a node of
// dev itself.
func (s *Server) isMountOf(m filesystem.Mount, dev blockdev.Device) (bool, error) {
	if !hasBlockDevice(m) || m.IsStaleDeviceNode() {
		return false, nil
	}
	of, err := s.deviceOfMount(m)
	if errors.Is(err, volume.ErrGone) {
		return false, nil
	}
	return err == nil && of.Number() == dev.Number(), err
}

// deviceOnDisk returns the device that m shows, if that is the disk at a path or rests
// on it.
func (s *Server) deviceOnDisk(m filesystem.Mount, disk string) (dev blockdev.Device, ok bool, err error) {
	if !hasBlockDevice(m) || m.IsStaleDeviceNode() {
		return blockdev.Device{}, false, nil
	}
	dev, err = s.deviceOfMount(m)
	if errors.Is(err, volume.ErrGone) {
		return blockdev.Device{}, false, nil
	}
	if err != nil {
		return blockdev.Device{}, false, err
	}
	layers, err := s.opts.Devices.Stack(dev)
	switch {
	case volume.IsKind(err, volume.KindPrecondition): // it rests on several disks
		return blockdev.Device{}, false, nil
	case err != nil:
		return blockdev.Device{}, false, err
	}
	located, err := s.opts.Devices.ByPath(disk)
	if err != nil {
		return blockdev.Device{}, false, err
	}
	below := layers[len(layers)-1]
	return dev, below.Number() == located.Number(), nil
}

// isDeviceNode reports whether path is a block special file.
func isDeviceNode(ctx context.Context, path string) (bool, error) {
	mode, err := operation.AwaitCall(ctx, func() (uint32, error) {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		return st.Mode, err
	})
	if err != nil {
		return false, volume.Errorf(volume.KindOf(err), "the path %s cannot be examined: %w", path, err).WithRemedy("delete the pod, so that the volume is published anew")
	}
	return mode&unix.S_IFMT == unix.S_IFBLK, nil
}

// explainShortDevice completes the error for a device that is smaller than that of a
// volume of this size must be: with what hides between the two, and with the
// connector's remedy.
func explainShortDevice(conn volume.Connection, size volume.Size, err error) error {
	var short *volume.Error
	if !errors.As(err, &short) || short.Kind != volume.KindDeadline {
		return err
	}
	if conn.ShortRemedy != "" {
		short = short.WithRemedy(conn.ShortRemedy)
	}
	if conn.MaxOverhead == 0 {
		return short
	}
	whole, _ := size.RoundUp(conn.Granularity)
	return volume.Errorf(short.Kind, "the device of a volume of %s, of which an encryption below this node may hide up to %s, is too small: %w", whole, conn.MaxOverhead, short)
}

package node

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// Devices is what the service needs of the node's block devices;
// *blockdev.System is the real one.
type Devices interface {
	ByPath(path string) (blockdev.Device, error)
	ByNumber(major, minor uint32) (blockdev.Device, error)
	Size(d blockdev.Device) (volume.Size, error)
	ReadOnly(d blockdev.Device) (bool, error)
	Stack(d blockdev.Device) ([]blockdev.Device, error)
	AwaitSize(ctx context.Context, d blockdev.Device, want volume.Size) (volume.Size, error)
	ResizeCrypt(ctx context.Context, d blockdev.Device, key []byte) (volume.Size, error)
}

// Filesystems is what the service needs of the node's filesystems and mounts;
// *filesystem.System is the real one.
type Filesystems interface {
	Probe(ctx context.Context, device string) (filesystem.Signature, error)
	Format(ctx context.Context, req filesystem.FormatRequest) error
	Check(ctx context.Context, device string, t filesystem.Type) error
	Mount(ctx context.Context, req filesystem.MountRequest) error
	Bind(ctx context.Context, req filesystem.MountRequest) error
	Unmount(ctx context.Context, target string) error
	FindMount(path string) (filesystem.Mount, bool, error)
	MountsOf(device string) ([]filesystem.Mount, error)
	Grow(ctx context.Context, req filesystem.GrowRequest) (filesystem.Growth, error)
	Stats(path string) (filesystem.Usage, error)
	Alive(ctx context.Context, device, mountPoint string) error
	Propagates(path string) (bool, error)
}

// diskOf walks from dev down to the whole disk and has the connector confirm
// that the disk is the volume. The last of the layers is the disk.
func (s *Server) diskOf(ctx context.Context, id string, dev blockdev.Device) ([]blockdev.Device, error) {
	layers, err := s.opts.Devices.Stack(dev)
	if err != nil {
		return nil, err
	}
	return layers, s.opts.Connector.Verify(ctx, id, layers[len(layers)-1].Path)
}

// isNodeBind tells whether m shows a device node (a published raw volume)
// rather than a filesystem.
func isNodeBind(m filesystem.Mount) bool {
	return (m.FSType == "devtmpfs" || m.FSType == "tmpfs") && m.Root != "/"
}

// isStaleNode tells whether m shows a device node that has been removed since:
// its disk was pulled out under the pod. The node still has its number, which
// the kernel may have given to another disk by now; what it led to, it does
// not lead to any more. The kernel marks the root of such a mount (dentry_path
// in fs/d_path.c).
func isStaleNode(m filesystem.Mount) bool {
	return isNodeBind(m) && strings.HasSuffix(m.Root, "//deleted")
}

// deviceOfMount returns the block device of a mounted filesystem, or of a
// mounted device node.
func (s *Server) deviceOfMount(m filesystem.Mount) (blockdev.Device, error) {
	if isNodeBind(m) {
		return s.opts.Devices.ByPath(m.Mountpoint)
	}
	if m.Device.Major != 0 {
		return s.opts.Devices.ByNumber(m.Device.Major, m.Device.Minor)
	}
	// btrfs has an anonymous number; only its source tells the device.
	dev, err := s.opts.Devices.ByPath(m.Source)
	if err != nil {
		return blockdev.Device{}, volume.Errorf(volume.Internal, "what is mounted at %s (%s of %s) rests on no block device: %w", m.Mountpoint, m.FSType, m.Source, err)
	}
	return dev, nil
}

// isOn tells whether m is a mount of the filesystem on dev, or of the node of
// dev itself.
func (s *Server) isOn(m filesystem.Mount, dev blockdev.Device) (bool, error) {
	mounts, err := s.opts.Filesystems.MountsOf(dev.Path)
	return slices.ContainsFunc(mounts, func(other filesystem.Mount) bool { return other.ID == m.ID }), err
}

// isDeviceNode tells whether path is a block special file.
func isDeviceNode(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, volume.Errorf(volume.Internal, "the path %s cannot be examined: %w", path, err).WithRemedy("delete the pod, so that the volume is published anew")
	}
	return st.Mode&unix.S_IFMT == unix.S_IFBLK, nil
}

// shortDevice completes the error for a device that is smaller than that of a
// volume of this size must be: with what hides between the two, and with the
// connector's remedy.
func shortDevice(conn volume.Connection, size volume.Size, err error) error {
	var short *volume.Error
	if !errors.As(err, &short) || short.Kind != volume.Deadline {
		return err
	}
	if conn.ShortRemedy != "" {
		short = short.WithRemedy(conn.ShortRemedy)
	}
	if conn.Hidden == 0 {
		return short
	}
	whole, _ := size.RoundUp(conn.Granule)
	return volume.Errorf(short.Kind, "the device of a volume of %s, of which an encryption below this node may hide up to %s, is too small: %w", whole, conn.Hidden, short)
}

package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// remedyContinues is the next step when ctx has ended before the kernel was done.
const remedyContinues = "no action needed: the operation continues and the next retry picks it up"

// mountError adds kind, cause and remedy to an error of Mount.
func (s *System) mountError(ctx context.Context, req MountRequest, err error) error {
	device := req.Device.Path()
	e := volume.Errorf(volume.KindInternal, "cannot mount %s (%s) at %s with options %q: %w",
		device, req.Type, req.Target, strings.Join(req.Options, ","), err)
	switch {
	case isContextError(err): // the kernel may be replaying the journal
		e.Kind = volume.KindOf(err)
		return e.WithRemedy(remedyContinues)
	case errors.Is(err, unix.EBUSY): // for example by mkfs or e2fsck of an earlier call
		e.Kind = volume.KindDeadline
		return e.WithRemedy(blockdev.InUseRemedy(device) + ", and what uses the target: fuser -vm " + req.Target)
	case errors.Is(err, unix.EIO): // the connection of the device may come back, or the filesystem is damaged
		return e.WithRemedy("check the kernel log of this node, and that the volume is still attached to it; " +
			"if the filesystem is damaged, " + req.Type.repairRemedy(device))
	}
	remedy, isRefused := s.explainRefusal(ctx, req, err)
	if isRefused {
		e.Kind = volume.KindPrecondition
	}
	return e.WithRemedy(remedy)
}

// explainRefusal returns the next step for an errno of mount(2). It reports whether the
// kernel will never mount this filesystem in this way.
func (s *System) explainRefusal(ctx context.Context, req MountRequest, err error) (remedy string, isRefused bool) {
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		if remedy, ok := s.explainBlockSizes(ctx, req.Device); ok {
			return remedy, true
		}
		return "check the kernel log of this node, which says whether the kernel refuses an option " +
			"or the filesystem itself", true
	case errors.Is(err, unix.EUCLEAN):
		return "the filesystem is damaged: " + req.Type.repairRemedy(req.Device.Path()), true
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf("load the kernel module of %s, which this node lacks: modprobe %s", req.Type,
			req.Type.mountType()), true
	case errors.Is(err, unix.EEXIST) && req.Type == TypeBtrfs:
		return "use another node, or Linux 6.7 or later: a filesystem with the same UUID is mounted on this node " +
			"(the origin or a clone of this one)", true
	case errors.Is(err, unix.EROFS) && RequestsReadOnly(req.Options):
		return "stage the volume once for writing (attached writable), then read-only again: " +
			"its journal holds changes that must be written first, but the device is read-only", true
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		if isReadOnly, readErr := req.Device.IsReadOnly(); readErr == nil && !isReadOnly {
			return "use a node with a newer kernel, or mount it read-only: the device is writable, " +
				"but the kernel of this node can only read the filesystem (its log says why)", true
		}
		return "mount it read-only, or attach it writable: the device is read-only", true
	}
	return "check the kernel log of this node", false
}

// explainBlockSizes returns the next step for a filesystem whose blocks do not fit, which
// the kernel refuses with EINVAL or ENOSYS. The blocks of the device can be too large, as
// those of a disk with sectors of 4096 bytes are for an XFS that was made on one of 512; or
// the kernel's pages can be too small. It reports false if the blocks fit.
func (s *System) explainBlockSizes(ctx context.Context, dev Device) (remedy string, ok bool) {
	sizes, err := awaitDeviceRead(ctx, s, dev, func() (blockSizes, error) { return readBlockSizes(dev) })
	page := volume.Size(os.Getpagesize())
	switch {
	case err != nil:
		return "", false
	case sizes.device > sizes.unit:
		return fmt.Sprintf("the filesystem reads and writes units of %s, which this device, with blocks of %s, cannot: "+
			"attach the volume where its disk shows blocks of %s, as where the filesystem was made "+
			"(another bus or hypervisor), or copy the data there to a new volume", sizes.unit, sizes.device, sizes.unit), true
	case sizes.block > page:
		return fmt.Sprintf("the filesystem has blocks of %s, more than a page of this node's kernel (%s): "+
			"use a node with such pages, as where the filesystem was made, or copy the data there to a new volume",
			sizes.block, page), true
	}
	return "", false
}

// blockSizes are those of a filesystem and of its device, in bytes.
type blockSizes struct {
	unit   volume.Size // the smallest unit that the filesystem reads and writes
	block  volume.Size // a block of the filesystem
	device volume.Size // a block of the device
}

func readBlockSizes(dev Device) (blockSizes, error) {
	device, err := dev.BlockSize()
	if err != nil {
		return blockSizes{}, err
	}
	head, err := readArea(dev, 0, btrfsOffset+btrfsLength)
	if err != nil {
		return blockSizes{}, err
	}
	if x, ok := parseXFS(head[:xfsLength]); ok {
		return blockSizes{unit: volume.Size(x.sectorSize), block: volume.Size(x.blockSize), device: device}, nil
	}
	if e, ok := parseExt(head[extOffset : extOffset+extLength]); ok {
		return blockSizes{unit: volume.Size(e.blockSize), block: volume.Size(e.blockSize), device: device}, nil
	}
	if b, ok := parseBtrfs(head[btrfsOffset:]); ok {
		return blockSizes{unit: volume.Size(b.sectorSize), block: volume.Size(b.sectorSize), device: device}, nil
	}
	return blockSizes{}, errors.New("no filesystem")
}

// bindError adds kind, cause and remedy to an error of Bind.
func bindError(req BindRequest, err error) error {
	e := volume.Errorf(volume.KindInternal, "cannot bind %s to %s with options %q: %w",
		req.Source, req.Target, strings.Join(req.Options, ","), err)
	switch {
	case isContextError(err):
		e.Kind = volume.KindOf(err)
		return e.WithRemedy(remedyContinues)
	case errors.Is(err, unix.EBUSY):
		e.Kind = volume.KindDeadline
		return e.WithRemedy("Kubernetes retries this automatically; " +
			"if the error persists, find what uses the target, on this node: fuser -vm " + req.Target)
	}
	return e.WithRemedy("check the kernel log of this node")
}

// unmountError adds kind, cause and remedy to an error of Unmount.
func unmountError(m Mount, err error) error {
	e := volume.Errorf(volume.KindInternal, "cannot unmount %s (%s of %s): %w", m.MountPoint, m.FSType, m.Source, err)
	var known *volume.Error
	switch {
	case errors.As(err, &known):
		e.Kind = known.Kind
		e.Msg = fmt.Sprintf("cannot unmount %s (%s of %s): %s", m.MountPoint, m.FSType, m.Source, known.Msg)
		return e.WithRemedy(known.Remedy)
	case isContextError(err): // the kernel writes back data
		e.Kind = volume.KindOf(err)
		return e.WithRemedy(remedyContinues)
	case errors.Is(err, unix.EBUSY):
		e.Kind = volume.KindDeadline
		return e.WithRemedy("Kubernetes retries this automatically; if the error persists, " +
			"find what uses the mount, on this node: fuser -vm " + m.MountPoint +
			" (a growth of the filesystem uses it too, until it ends)")
	}
	return e
}

package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// mountError turns the errno of mount(2) into cause and remedy.
func (s *System) mountError(ctx context.Context, req MountRequest, err error) error {
	device := req.Device.Path()
	e := volume.Errorf(volume.KindInternal, "mount %s (%s) at %s with options %q: %w",
		device, req.Type, req.Target, strings.Join(req.Options, ","), err)
	switch {
	case isContextError(err):
		e.Kind = volume.KindOf(err)
		return e.WithRemedy("the kernel may still be replaying the journal; it is looked at again at the next try")
	case errors.Is(err, unix.EBUSY): // by mkfs or e2fsck of an earlier call, for one: it passes
		e.Kind = volume.KindDeadline
		return e.WithRemedy("Kubernetes retries this automatically; if it stays so, " +
			"find what uses the device or the target on this node (lsblk, fuser)")
	case errors.Is(err, unix.EIO): // of a connection that comes back, or of a damaged filesystem
		return e.WithRemedy("check the kernel log of this node and the connection of the volume; " +
			"if the filesystem is damaged, " + repairCommand(req.Type, device))
	}
	remedy, refused := s.explainRefusal(ctx, req, err)
	if refused {
		e.Kind = volume.KindPrecondition
	}
	return e.WithRemedy(remedy)
}

// explainRefusal says why the kernel will never mount this filesystem in this way,
// and what to do.
func (s *System) explainRefusal(ctx context.Context, req MountRequest, err error) (remedy string, refused bool) {
	device := req.Device.Path()
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		if remedy, ok := s.explainBlockSizes(ctx, req.Device); ok {
			return remedy, true
		}
		return "the kernel refuses an option or the filesystem itself; its log on this node says which", true
	case errors.Is(err, unix.EUCLEAN):
		return "the filesystem is damaged: " + repairCommand(req.Type, device), true
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf("the kernel of this node lacks %s: load its module", req.Type), true
	case errors.Is(err, unix.EEXIST) && req.Type == TypeBtrfs:
		return "a filesystem of the same UUID is mounted on this node (origin and clone); use another node or Linux 6.7", true
	case errors.Is(err, unix.EROFS) && RequestsReadOnly(req.Options):
		return "its journal holds changes that must be written first, and the device is read-only: " +
			"stage the volume once for writing (attached writable), then read-only again", true
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EACCES):
		if ro, roErr := req.Device.IsReadOnly(); roErr == nil && !ro {
			return "the device is writable, but the kernel of this node can only read the filesystem (its log says why): " +
				"use a node with a newer kernel, or mount it read-only", true
		}
		return "the device is read-only: mount it read-only, or attach it writable", true
	}
	return "the kernel log of this node names the cause", false
}

// explainBlockSizes recognizes a filesystem whose blocks do not fit: those of the
// device are larger, as those of a disk with 4096-byte sectors are for an XFS
// that was made on one with 512; or the kernel's pages are smaller. The kernel
// says EINVAL or ENOSYS to that.
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

// blockSizes are those of a filesystem and of its device.
type blockSizes struct {
	unit   volume.Size // what the filesystem reads and writes at least
	block  volume.Size
	device volume.Size
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

func repairCommand(t Type, device string) string {
	switch {
	case t.IsExt():
		return "unmount it everywhere and run e2fsck -f " + device
	case t == TypeXFS:
		return "unmount it everywhere and run xfs_repair " + device
	default:
		return "unmount it everywhere and run btrfs check " + device
	}
}

// bindError turns the errno of a bind mount into cause and remedy.
func bindError(req BindRequest, err error) error {
	e := volume.Errorf(volume.KindInternal, "bind %s to %s with options %q: %w",
		req.Source, req.Target, strings.Join(req.Options, ","), err)
	switch {
	case isContextError(err):
		e.Kind = volume.KindOf(err)
		return e.WithRemedy("the kernel may still be at work; it is looked at again at the next try")
	case errors.Is(err, unix.EBUSY):
		e.Kind = volume.KindDeadline
		return e.WithRemedy("Kubernetes retries this automatically; if it stays so, " +
			"find what uses the target on this node (fuser)")
	}
	return e.WithRemedy("the kernel log of this node names the cause")
}

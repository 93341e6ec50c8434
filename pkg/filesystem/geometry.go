package filesystem

import (
	"context"
	"errors"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Geometry is the size of a filesystem as its superblock or the kernel gives
// it: all blocks, those of the metadata included.
type Geometry struct {
	Type      Type
	BlockSize volume.Size
	Blocks    uint64
}

// Size returns the size in bytes.
func (g Geometry) Size() volume.Size {
	return volume.Size(g.Blocks) * g.BlockSize
}

// Geometry reads the size of the filesystem on a device. mountPoint is where
// it is mounted; it must be given when it is mounted (XFS and btrfs keep their
// true size in memory) and empty when it is not.
//
// Kinds: Precondition (no such filesystem, or the mount is not of this
// device), Internal (unreadable), Deadline and Canceled (no answer within ctx).
func (s *System) Geometry(ctx context.Context, dev Device, mountPoint string) (Geometry, error) {
	if mountPoint == "" {
		return awaitDeviceRead(ctx, s, dev, func() (Geometry, error) { return unmountedGeometry(ctx, dev) })
	}
	return awaitMountRead(ctx, s, dev, mountPoint, func() (Geometry, error) {
		t, err := s.openMounted(dev, mountPoint)
		if err != nil {
			return Geometry{}, err
		}
		defer t.close()
		g, err := t.newGrower()
		if err != nil {
			return Geometry{}, err
		}
		return g.readGeometry(ctx)
	})
}

func unmountedGeometry(ctx context.Context, dev Device) (Geometry, error) {
	size, err := sizeOf(dev)
	if err != nil {
		return Geometry{}, err
	}
	head, err := readArea(dev, 0, min(size.Bytes(), probeLength))
	if err != nil {
		return Geometry{}, unreadableError(dev.Path(), err)
	}
	sig, known := findFilesystem(head)
	if !known || sig.State != StateFormatted {
		return Geometry{}, volume.Errorf(volume.KindPrecondition, "device %s holds no filesystem that could be measured", dev.Path())
	}
	switch sig.Type {
	case TypeXFS:
		x, _ := parseXFS(head[:xfsLength])
		return Geometry{Type: TypeXFS, BlockSize: volume.Size(x.blockSize), Blocks: x.blocks}, nil
	case TypeBtrfs:
		b, _ := parseBtrfs(head[btrfsOffset : btrfsOffset+btrfsLength])
		return btrfsGeometry(b.deviceBytes, b.sectorSize), nil
	default:
		e, err := readExtSuperblock(ctx, dev)
		if err != nil {
			return Geometry{}, err
		}
		return extGeometry(e), nil
	}
}

func extGeometry(e extSuperblock) Geometry {
	t, _ := e.fsType()
	return Geometry{Type: t, BlockSize: volume.Size(e.blockSize), Blocks: e.blocks}
}

func btrfsGeometry(total uint64, sector uint32) Geometry {
	return Geometry{Type: TypeBtrfs, BlockSize: volume.Size(sector), Blocks: total / uint64(sector)}
}

// How often, and how far apart, an ext superblock is read that changes while
// it is read.
const (
	maxSuperblockReads     = 20
	superblockReadInterval = 5 * time.Millisecond
)

// readExtSuperblock reads the ext superblock from the block device: the kernel changes
// the very same page, so the read is current, but it may catch a change half
// made. A superblock with a checksum counts when that is right; one without,
// and one whose checksum stays wrong (kernels before 6.2 renew it only when
// they write it out), counts when two reads in a row agree.
func readExtSuperblock(ctx context.Context, dev Device) (extSuperblock, error) {
	device := dev.Path()
	var last extSuperblock
	agreed := 0
	for range maxSuperblockReads {
		b, err := readArea(dev, extOffset, extLength)
		if err != nil {
			return extSuperblock{}, unreadableError(device, err)
		}
		e, ok := parseExt(b)
		switch {
		case ok && e.hasChecksum && e.isChecksumValid:
			return e, nil
		case ok && e == last:
			agreed++
			if !e.hasChecksum || agreed >= maxSuperblockReads/4 {
				return e, nil
			}
		default:
			agreed = 0
		}
		if ok {
			last = e
		}
		if err := operation.Sleep(ctx, superblockReadInterval); err != nil {
			return extSuperblock{}, volume.Wrap(err, "read the superblock of "+device, "")
		}
	}
	return extSuperblock{}, volume.Errorf(volume.KindInternal, "the ext superblock of %s changes with every read or is damaged", device).
		WithRemedy("try again; if it stays so, unmount the volume everywhere and run e2fsck -f " + device)
}

// readXFSGeometry reads the geometry of a mounted XFS.
func readXFSGeometry(m mountHandle, path string) (xfsGeometry, error) {
	x, err := m.xfsGeometry()
	if err != nil && isShutDownErrno(err) {
		return x, newShutDownError(path, err)
	}
	if err != nil {
		return x, volume.Errorf(volume.KindInternal, "read the geometry of the XFS at %s (XFS_IOC_FSGEOMETRY): %w", path, err)
	}
	super := xfsSuperblock{blockSize: x.blockSize, blocks: x.dataBlocks, agBlocks: x.agBlocks, agCount: x.agCount}
	if !super.isPlausible() {
		return x, volume.Errorf(volume.KindInternal, "the kernel gives an impossible geometry for the XFS at %s: %+v", path, x)
	}
	return x, nil
}

// readBtrfsDevice reads the size of a mounted btrfs on its one device.
func readBtrfsDevice(m mountHandle, path string) (btrfsInfo, btrfsDevice, error) {
	info, err := m.btrfsInfo()
	if err != nil && isShutDownErrno(err) {
		return info, btrfsDevice{}, newShutDownError(path, err)
	}
	if err != nil {
		return info, btrfsDevice{}, volume.Errorf(volume.KindInternal, "read the btrfs at %s (BTRFS_IOC_FS_INFO): %w", path, err)
	}
	if info.devices != 1 || info.sectorSize == 0 {
		return info, btrfsDevice{}, volume.Errorf(volume.KindPrecondition, "the btrfs at %s spans %d devices", path, info.devices).
			WithRemedy("a volume is one device: remove the others with btrfs device remove")
	}
	// Ids are not reused, so the one device need not have the id 1.
	const mostIDs = 4096
	for id := uint64(1); id <= min(info.maxID, mostIDs); id++ {
		dev, err := m.btrfsDevice(id)
		switch {
		case err == nil:
			return info, dev, nil
		case !errors.Is(err, unix.ENODEV):
			return info, dev, volume.Errorf(volume.KindInternal, "read the device of the btrfs at %s (BTRFS_IOC_DEV_INFO): %w", path, err)
		}
	}
	return info, btrfsDevice{}, volume.Errorf(volume.KindInternal, "the btrfs at %s names none of its devices", path)
}

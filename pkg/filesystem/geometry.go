package filesystem

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// geometry is the size of a filesystem by its superblock or by the kernel. It counts all
// blocks, those of the metadata included.
type geometry struct {
	fsType    Type
	blockSize volume.Size
	blocks    uint64
}

// size returns the size in bytes.
func (g geometry) size() volume.Size { return g.sizeOf(g.blocks) }

// sizeOf returns the size of a number of blocks, in bytes.
func (g geometry) sizeOf(blocks uint64) volume.Size { return volume.Size(blocks) * g.blockSize }

func (es extSuperblock) geometry() geometry {
	t, _ := es.fsType()
	return geometry{fsType: t, blockSize: volume.Size(es.blockSize), blocks: es.blocks}
}

func btrfsGeometry(total uint64, sectorSize uint32) geometry {
	return geometry{fsType: TypeBtrfs, blockSize: volume.Size(sectorSize), blocks: total / uint64(sectorSize)}
}

// The bounds of readExtSuperblock, which repeats a read during which the superblock changed.
const (
	maxSuperblockReads     = 20
	superblockReadInterval = 5 * time.Millisecond
)

// readExtSuperblock reads the ext superblock from the block device. The kernel changes the
// same page, so the result is current, but a read can return a half-made change. A
// superblock with a valid checksum is accepted. One without a checksum is accepted when
// two reads in a row agree. One whose checksum stays wrong is accepted when more reads
// agree: kernels before 6.2 renew the checksum only when they write the superblock.
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
			return extSuperblock{}, volume.Wrap(err, "cannot read the superblock of "+device, "")
		}
	}
	return extSuperblock{}, volume.Errorf(volume.KindInternal,
		"the ext superblock of %s changes with every read or is damaged", device).
		WithRemedy("Kubernetes retries this automatically; " +
			"if the error persists, unmount the volume everywhere and run: e2fsck -f " + device)
}

// readXFS reads the geometry of a mounted XFS.
func (f *mountedFilesystem) readXFS() (xfsGeometry, error) {
	x, err := f.mount.xfsGeometry()
	if err != nil && isShutDownErrno(err) {
		return x, newShutDownError(f.mountPoint, err)
	}
	if err != nil {
		return x, volume.Errorf(volume.KindInternal, "cannot read the geometry of the XFS at %s (XFS_IOC_FSGEOMETRY): %w",
			f.mountPoint, err)
	}
	sb := xfsSuperblock{blockSize: x.blockSize, blocks: x.dataBlocks, agBlocks: x.agBlocks, agCount: x.agCount}
	if !sb.isPlausible() {
		return x, volume.Errorf(volume.KindInternal, "the kernel reports an impossible geometry for the XFS at %s: %+v",
			f.mountPoint, sb)
	}
	return x, nil
}

// readBtrfs reads the size of a mounted btrfs on its one device.
func (f *mountedFilesystem) readBtrfs() (btrfsInfo, btrfsDevice, error) {
	info, err := f.mount.btrfsInfo()
	if err != nil && isShutDownErrno(err) {
		return info, btrfsDevice{}, newShutDownError(f.mountPoint, err)
	}
	if err != nil {
		return info, btrfsDevice{}, volume.Errorf(volume.KindInternal,
			"cannot read the size of the btrfs at %s (BTRFS_IOC_FS_INFO): %w", f.mountPoint, err)
	}
	if info.devices != 1 || info.sectorSize == 0 {
		return info, btrfsDevice{}, volume.Errorf(volume.KindPrecondition,
			"the btrfs at %s spans %d devices (sectors of %d bytes), but a volume is one device",
			f.mountPoint, info.devices, info.sectorSize).
			WithRemedy("list its devices: btrfs filesystem show " + f.mountPoint +
				"; then remove all but that of the volume: btrfs device remove DEVICE " + f.mountPoint)
	}
	// btrfs does not reuse device ids, so the one device need not have id 1.
	const maxDeviceID = 4096
	for id := uint64(1); id <= min(info.maxID, maxDeviceID); id++ {
		dev, err := f.mount.btrfsDevice(id)
		if err == nil {
			return info, dev, nil
		}
		if !errors.Is(err, unix.ENODEV) {
			return info, dev, volume.Errorf(volume.KindInternal,
				"cannot read the device of the btrfs at %s (BTRFS_IOC_DEV_INFO): %w", f.mountPoint, err)
		}
	}
	return info, btrfsDevice{}, volume.Errorf(volume.KindInternal, "the btrfs at %s reports none of its devices",
		f.mountPoint)
}

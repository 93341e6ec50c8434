package filesystem

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// Where the superblocks lie on a device, and how much of each is read, in bytes.
const (
	extOffset   = 1024
	extLength   = 1024
	xfsLength   = 264
	btrfsOffset = 64 << 10
	btrfsLength = 4096
)

// The feature and state bits of struct ext2_super_block (lib/ext2fs/ext2_fs.h of e2fsprogs;
// fs/ext4/ext4.h of the kernel).
const (
	extCompatHasJournal   = 0x0004
	extCompatSparseSuper2 = 0x0200

	extIncompatFiletype   = 0x0002
	extIncompatRecover    = 0x0004
	extIncompatJournalDev = 0x0008
	extIncompatMetaBG     = 0x0010
	extIncompat64bit      = 0x0080

	extROCompatSparseSuper  = 0x0001
	extROCompatLargeFile    = 0x0002
	extROCompatBtreeDir     = 0x0004
	extROCompatMetadataCsum = 0x0400

	extStateValid = 0x0001
	extStateError = 0x0002
)

// extSuperblock holds the fields of struct ext2_super_block that decide on type, size and
// growth.
type extSuperblock struct {
	blocks                   uint64
	firstDataBlock           uint32
	blockSize                uint32 // in bytes
	clusterRatio             uint32 // blocks per cluster; 1 without bigalloc
	blocksPerGroup           uint32
	inodesPerGroup           uint32
	inodeSize                uint32 // in bytes
	descriptorSize           uint32 // in bytes
	reservedDescriptorBlocks uint32
	state                    uint16
	errorCount               uint32
	mountTime                uint32
	compat                   uint32
	incompat                 uint32
	roCompat                 uint32
	hasChecksum              bool
	isChecksumValid          bool
}

// hasExtMagic reports whether the bytes at extOffset have the magic number of ext.
func hasExtMagic(b []byte) bool {
	return len(b) >= extLength && binary.LittleEndian.Uint16(b[56:]) == unix.EXT4_SUPER_MAGIC
}

// parseExt reads the superblock at extOffset. It reports false when the magic number is
// missing or a field is impossible.
func parseExt(b []byte) (sb extSuperblock, ok bool) {
	if !hasExtMagic(b) {
		return extSuperblock{}, false
	}
	u16 := func(offset int) uint16 { return binary.LittleEndian.Uint16(b[offset:]) }
	u32 := func(offset int) uint32 { return binary.LittleEndian.Uint32(b[offset:]) }
	logBlock, logCluster := u32(24), u32(28)
	if logBlock > 6 || logCluster > 20 {
		return extSuperblock{}, false
	}
	sb = extSuperblock{
		blocks: uint64(u32(4)), firstDataBlock: u32(20), blockSize: 1024 << logBlock, clusterRatio: 1,
		blocksPerGroup: u32(32), inodesPerGroup: u32(40), inodeSize: 128, descriptorSize: 32,
		reservedDescriptorBlocks: uint32(u16(206)), state: u16(58), errorCount: u32(404), mountTime: u32(44),
	}
	if u32(76) > 0 { // EXT2_DYNAMIC_REV: the fields below exist
		sb.compat, sb.incompat, sb.roCompat, sb.inodeSize = u32(92), u32(96), u32(100), uint32(u16(88))
	}
	if logCluster > logBlock {
		sb.clusterRatio = 1 << (logCluster - logBlock)
	}
	if sb.has64bit() {
		sb.blocks |= uint64(u32(336)) << 32
		sb.descriptorSize = max(uint32(u16(254)), 32)
	}
	if sb.roCompat&extROCompatMetadataCsum != 0 {
		sb.hasChecksum = true
		sb.isChecksumValid = ^crc32.Checksum(b[:1020], crc32.MakeTable(crc32.Castagnoli)) == u32(1020)
	}
	return sb, sb.isPlausible()
}

func (es extSuperblock) isPlausible() bool {
	return isPlausibleSize(es.blocks, es.blockSize) && es.blocks > uint64(es.firstDataBlock) && es.firstDataBlock <= 1 &&
		es.blocksPerGroup > 0 && es.inodesPerGroup > 0 && es.inodeSize >= 128 && es.inodeSize <= es.blockSize
}

// isPlausibleSize reports whether so many blocks of a size fit into a volume.Size.
func isPlausibleSize(blocks uint64, blockSize uint32) bool {
	hi, total := bits.Mul64(blocks, uint64(blockSize))
	return blocks > 0 && hi == 0 && total <= math.MaxInt64
}

func (es extSuperblock) has64bit() bool { return es.incompat&extIncompat64bit != 0 }

// hasErrors reports whether the kernel or e2fsck has set the error flag.
func (es extSuperblock) hasErrors() bool { return es.state&extStateError != 0 }

// isComplete reports whether mke2fs has finished: it sets the valid bit last. The bit is
// also clear while a filesystem without a journal is mounted, but then the mount time is set.
func (es extSuperblock) isComplete() bool {
	return es.state&extStateValid != 0 || es.hasErrors() || es.mountTime != 0
}

func (es extSuperblock) size() volume.Size { return volume.Size(es.blocks * uint64(es.blockSize)) }

// fsType tells ext2, ext3 and ext4 apart by the features that the older drivers lack, as
// blkid does. It reports false for an external journal.
func (es extSuperblock) fsType() (t Type, ok bool) {
	const (
		incompatExt2 = extIncompatFiletype | extIncompatMetaBG
		incompatExt3 = incompatExt2 | extIncompatRecover
		roCompatOld  = extROCompatSparseSuper | extROCompatLargeFile | extROCompatBtreeDir
	)
	hasJournal := es.compat&extCompatHasJournal != 0
	switch {
	case es.incompat&extIncompatJournalDev != 0:
		return "", false
	case !hasJournal && es.incompat&^uint32(incompatExt2) == 0 && es.roCompat&^uint32(roCompatOld) == 0:
		return TypeExt2, true
	case hasJournal && es.incompat&^uint32(incompatExt3) == 0 && es.roCompat&^uint32(roCompatOld) == 0:
		return TypeExt3, true
	default:
		return TypeExt4, true
	}
}

// xfsSuperblock holds the fields of struct xfs_dsb (fs/xfs/libxfs/xfs_format.h) that this
// package uses.
type xfsSuperblock struct {
	blockSize  uint32 // in bytes
	blocks     uint64
	agBlocks   uint32 // blocks of an allocation group
	agCount    uint32
	sectorSize uint32 // in bytes
	inProgress bool   // mkfs.xfs has not finished
}

func hasXFSMagic(b []byte) bool { return len(b) >= xfsLength && bytes.HasPrefix(b, []byte("XFSB")) }

// parseXFS reads the superblock at the start of a device. It reports false when the magic
// number is missing or a field is impossible.
func parseXFS(b []byte) (sb xfsSuperblock, ok bool) {
	if !hasXFSMagic(b) {
		return xfsSuperblock{}, false
	}
	be := binary.BigEndian
	sb = xfsSuperblock{
		blockSize: be.Uint32(b[4:]), blocks: be.Uint64(b[8:]), agBlocks: be.Uint32(b[84:]), agCount: be.Uint32(b[88:]),
		sectorSize: uint32(be.Uint16(b[102:])), inProgress: b[126] != 0,
	}
	return sb, sb.isPlausible()
}

func (xs xfsSuperblock) isPlausible() bool {
	return isPlausibleSize(xs.blocks, xs.blockSize) && xs.agBlocks > 0 && xs.agCount > 0 &&
		xs.blockSize >= 512 && xs.blockSize <= 64<<10 && bits.OnesCount32(xs.blockSize) == 1
}

func (xs xfsSuperblock) size() volume.Size { return volume.Size(xs.blocks * uint64(xs.blockSize)) }

// btrfsSuperblock holds the fields of struct btrfs_super_block (linux/btrfs_tree.h) that
// this package uses.
type btrfsSuperblock struct {
	deviceBytes uint64 // the size of the filesystem on this device
	devices     uint64
	sectorSize  uint32 // in bytes
	inProgress  bool   // mkfs.btrfs has not finished: it writes the final magic last
}

const (
	btrfsSignature  = "_BHRfS_M"
	btrfsInProgress = "!BHRfS_M" // BTRFS_MAGIC_TEMPORARY of btrfs-progs
)

func hasBtrfsMagic(b []byte) bool {
	if len(b) < btrfsLength {
		return false
	}
	magic := string(b[64:72])
	return magic == btrfsSignature || magic == btrfsInProgress
}

// parseBtrfs reads the superblock at btrfsOffset. It reports false when the magic number is
// missing or a field is impossible.
func parseBtrfs(b []byte) (sb btrfsSuperblock, ok bool) {
	if !hasBtrfsMagic(b) {
		return btrfsSuperblock{}, false
	}
	le := binary.LittleEndian
	sb = btrfsSuperblock{
		deviceBytes: le.Uint64(b[209:]), devices: le.Uint64(b[136:]), sectorSize: le.Uint32(b[144:]),
		inProgress: string(b[64:72]) == btrfsInProgress,
	}
	return sb, sb.sectorSize >= 512 && sb.sectorSize <= 64<<10 && isPlausibleSize(sb.deviceBytes, 1) && sb.devices > 0
}

func (bs btrfsSuperblock) size() volume.Size { return volume.Size(bs.deviceBytes) }

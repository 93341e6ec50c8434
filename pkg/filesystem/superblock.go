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

// This file decodes the superblocks of ext, XFS and btrfs. Offsets into a superblock stand
// beside the name of the C field that they address.

// Where the superblocks lie on a device, and how much of each is read, in bytes. That of XFS
// lies at the start.
const (
	extOffset   = 1024
	extLength   = 1024 // sizeof(struct ext2_super_block)
	xfsLength   = 264  // up to sb_meta_uuid of struct xfs_dsb
	btrfsOffset = 64 << 10
	btrfsLength = 4096 // sizeof(struct btrfs_super_block)
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

	maxExtLogBlockSize   = 6  // blocks of 64 KiB (EXT4_MAX_BLOCK_SIZE)
	maxExtLogClusterSize = 20 // clusters of 1 GiB (EXT4_MAX_CLUSTER_LOG_SIZE)
	minExtInodeSize      = 128
	minExtDescriptorSize = 32
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

// hasExtMagic reports whether b, the bytes from extOffset on, has the magic number of ext.
func hasExtMagic(b []byte) bool {
	return len(b) >= extLength && binary.LittleEndian.Uint16(b[56:]) == unix.EXT4_SUPER_MAGIC // s_magic
}

// parseExt reads the superblock in b, the bytes from extOffset on. It reports false when the
// magic number is missing or a field is impossible.
func parseExt(b []byte) (sb extSuperblock, ok bool) {
	if !hasExtMagic(b) {
		return extSuperblock{}, false
	}
	u16 := func(offset int) uint16 { return binary.LittleEndian.Uint16(b[offset:]) }
	u32 := func(offset int) uint32 { return binary.LittleEndian.Uint32(b[offset:]) }
	logBlock, logCluster := u32(24), u32(28) // s_log_block_size, s_log_cluster_size
	if logBlock > maxExtLogBlockSize || logCluster > maxExtLogClusterSize {
		return extSuperblock{}, false
	}
	sb = extSuperblock{
		blocks:                   uint64(u32(4)), // s_blocks_count
		firstDataBlock:           u32(20),        // s_first_data_block
		blockSize:                1024 << logBlock,
		clusterRatio:             1,
		blocksPerGroup:           u32(32), // s_blocks_per_group
		inodesPerGroup:           u32(40), // s_inodes_per_group
		inodeSize:                minExtInodeSize,
		descriptorSize:           minExtDescriptorSize,
		reservedDescriptorBlocks: uint32(u16(206)), // s_reserved_gdt_blocks
		state:                    u16(58),          // s_state
		errorCount:               u32(404),         // s_error_count
		mountTime:                u32(44),          // s_mtime
	}
	if u32(76) > 0 { // s_rev_level is EXT2_DYNAMIC_REV or later: the fields below exist
		// s_feature_compat, s_feature_incompat, s_feature_ro_compat, s_inode_size
		sb.compat, sb.incompat, sb.roCompat, sb.inodeSize = u32(92), u32(96), u32(100), uint32(u16(88))
	}
	if logCluster > logBlock {
		sb.clusterRatio = 1 << (logCluster - logBlock)
	}
	if sb.has64bit() {
		sb.blocks |= uint64(u32(336)) << 32                             // s_blocks_count_hi
		sb.descriptorSize = max(uint32(u16(254)), minExtDescriptorSize) // s_desc_size
	}
	if sb.roCompat&extROCompatMetadataCsum != 0 {
		sb.hasChecksum = true
		// s_checksum is the last field, and covers all bytes before it.
		sb.isChecksumValid = ^crc32.Checksum(b[:1020], crc32.MakeTable(crc32.Castagnoli)) == u32(1020)
	}
	return sb, sb.isPlausible()
}

// isPlausible reports whether no field is impossible. The first data block is 1 with blocks
// of 1 KiB, and otherwise 0.
func (es extSuperblock) isPlausible() bool {
	return isPlausibleSize(es.blocks, es.blockSize) && es.blocks > uint64(es.firstDataBlock) && es.firstDataBlock <= 1 &&
		es.blocksPerGroup > 0 && es.inodesPerGroup > 0 &&
		es.inodeSize >= minExtInodeSize && es.inodeSize <= es.blockSize
}

// isPlausibleSize reports whether there are blocks, and their total size fits into a
// volume.Size.
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

// fsType distinguishes ext2, ext3 and ext4 by the features that the older drivers lack, as
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
	isComplete bool   // mkfs.xfs has finished
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
		blockSize:  be.Uint32(b[4:]),           // sb_blocksize
		blocks:     be.Uint64(b[8:]),           // sb_dblocks
		agBlocks:   be.Uint32(b[84:]),          // sb_agblocks
		agCount:    be.Uint32(b[88:]),          // sb_agcount
		sectorSize: uint32(be.Uint16(b[102:])), // sb_sectsize
		isComplete: b[126] == 0,                // sb_inprogress
	}
	return sb, sb.isPlausible()
}

// isPlausible reports whether no field is impossible. The block size is a power of two from
// XFS_MIN_BLOCKSIZE to XFS_MAX_BLOCKSIZE.
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
	isComplete  bool   // mkfs.btrfs has finished: it writes the final magic last
}

// The two values of the field magic.
const (
	btrfsMagic          = "_BHRfS_M"
	btrfsTemporaryMagic = "!BHRfS_M" // BTRFS_MAGIC_TEMPORARY of btrfs-progs
)

func hasBtrfsMagic(b []byte) bool {
	if len(b) < btrfsLength {
		return false
	}
	magic := string(b[64:72]) // magic
	return magic == btrfsMagic || magic == btrfsTemporaryMagic
}

// parseBtrfs reads the superblock in b, the bytes from btrfsOffset on. It reports false when
// the magic number is missing or a field is impossible.
func parseBtrfs(b []byte) (sb btrfsSuperblock, ok bool) {
	if !hasBtrfsMagic(b) {
		return btrfsSuperblock{}, false
	}
	le := binary.LittleEndian
	sb = btrfsSuperblock{
		deviceBytes: le.Uint64(b[209:]),             // dev_item.total_bytes
		devices:     le.Uint64(b[136:]),             // num_devices
		sectorSize:  le.Uint32(b[144:]),             // sectorsize
		isComplete:  string(b[64:72]) == btrfsMagic, // magic
	}
	// 64 KiB is BTRFS_MAX_METADATA_BLOCKSIZE, the kernel's upper limit of sectorsize.
	return sb, sb.sectorSize >= 512 && sb.sectorSize <= 64<<10 && isPlausibleSize(sb.deviceBytes, 1) && sb.devices > 0
}

func (bs btrfsSuperblock) size() volume.Size { return volume.Size(bs.deviceBytes) }

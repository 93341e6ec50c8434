package filesystem

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/bits"

	"github.com/growvol/growvol/pkg/volume"
)

// Where the superblocks lie on a device, and how much of them is read.
const (
	extOffset   = 1024
	extLength   = 1024
	xfsLength   = 264
	btrfsOffset = 64 << 10
	btrfsLength = 4096
)

// Feature and state bits of struct ext2_super_block (e2fsprogs
// lib/ext2fs/ext2_fs.h; the kernel's fs/ext4/ext4.h).
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

// extSuperblock holds the fields of the ext superblock that decide on type, size
// and growth.
type extSuperblock struct {
	blocks                   uint64
	firstDataBlock           uint32
	blockSize                uint32
	clusterRatio             uint32 // blocks per cluster; 1 without bigalloc
	blocksPerGroup           uint32
	inodesPerGroup           uint32
	inodeSize                uint32
	descriptorSize           uint32
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

// hasExtMagic tells whether the 1 KiB at extOffset claims to be ext.
func hasExtMagic(b []byte) bool {
	return len(b) >= extLength && binary.LittleEndian.Uint16(b[56:]) == extMagic
}

// parseExt reads the superblock found at extOffset. ok is false when the
// magic number is missing or a field is impossible.
func parseExt(b []byte) (s extSuperblock, ok bool) {
	if !hasExtMagic(b) {
		return extSuperblock{}, false
	}
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	logBlock, logCluster := u32(24), u32(28)
	if logBlock > 6 || logCluster > 20 {
		return extSuperblock{}, false
	}
	s = extSuperblock{
		blocks: uint64(u32(4)), firstDataBlock: u32(20), blockSize: 1024 << logBlock, clusterRatio: 1, blocksPerGroup: u32(32),
		inodesPerGroup: u32(40), inodeSize: 128, descriptorSize: 32, reservedDescriptorBlocks: uint32(u16(206)), state: u16(58),
		errorCount: u32(404), mountTime: u32(44),
	}
	if u32(76) > 0 { // EXT2_DYNAMIC_REV: the fields below exist
		s.compat, s.incompat, s.roCompat, s.inodeSize = u32(92), u32(96), u32(100), uint32(u16(88))
	}
	if logCluster > logBlock {
		s.clusterRatio = 1 << (logCluster - logBlock)
	}
	if s.has64bit() {
		s.blocks |= uint64(u32(336)) << 32
		s.descriptorSize = max(uint32(u16(254)), 32)
	}
	if s.roCompat&extROCompatMetadataCsum != 0 {
		s.hasChecksum = true
		s.isChecksumValid = ^crc32.Checksum(b[:1020], crc32.MakeTable(crc32.Castagnoli)) == u32(1020)
	}
	return s, s.isPlausible()
}

func (es extSuperblock) isPlausible() bool {
	hi, total := bits.Mul64(es.blocks, uint64(es.blockSize))
	return hi == 0 && total <= math.MaxInt64 && es.blocks > uint64(es.firstDataBlock) && es.firstDataBlock <= 1 &&
		es.blocksPerGroup > 0 && es.inodesPerGroup > 0 && es.inodeSize >= 128 && es.inodeSize <= es.blockSize
}

func (es extSuperblock) has64bit() bool { return es.incompat&extIncompat64bit != 0 }

// hasErrors tells whether the kernel or e2fsck has flagged the filesystem.
func (es extSuperblock) hasErrors() bool { return es.state&extStateError != 0 }

// isComplete is false for a filesystem whose mke2fs was interrupted: mke2fs
// sets the valid bit last. The bit is also clear while a filesystem without
// journal is mounted; but then it has a mount time.
func (es extSuperblock) isComplete() bool {
	return es.state&extStateValid != 0 || es.hasErrors() || es.mountTime != 0
}

func (es extSuperblock) size() volume.Size { return volume.Size(es.blocks * uint64(es.blockSize)) }

// fsType tells ext2, ext3 and ext4 apart by the features that the older drivers
// lack, as blkid does; ok is false for a journal device.
func (es extSuperblock) fsType() (t Type, ok bool) {
	const (
		incompatExt2 = extIncompatFiletype | extIncompatMetaBG
		incompatExt3 = incompatExt2 | extIncompatRecover
		roCompatOld  = extROCompatSparseSuper | extROCompatLargeFile | extROCompatBtreeDir
	)
	journal := es.compat&extCompatHasJournal != 0
	switch {
	case es.incompat&extIncompatJournalDev != 0:
		return "", false
	case !journal && es.incompat&^uint32(incompatExt2) == 0 && es.roCompat&^uint32(roCompatOld) == 0:
		return TypeExt2, true
	case journal && es.incompat&^uint32(incompatExt3) == 0 && es.roCompat&^uint32(roCompatOld) == 0:
		return TypeExt3, true
	default:
		return TypeExt4, true
	}
}

// xfsSuperblock holds the fields of struct xfs_dsb (fs/xfs/libxfs/xfs_format.h)
// that this package uses.
type xfsSuperblock struct {
	blockSize  uint32
	blocks     uint64
	agBlocks   uint32
	agCount    uint32
	imaxpct    uint32
	sectorSize uint32
	inProgress bool
}

func hasXFSMagic(b []byte) bool { return len(b) >= xfsLength && bytes.HasPrefix(b, []byte("XFSB")) }

// parseXFS reads the superblock found at the start of a device.
func parseXFS(b []byte) (s xfsSuperblock, ok bool) {
	if !hasXFSMagic(b) {
		return xfsSuperblock{}, false
	}
	s = xfsSuperblock{
		blockSize: binary.BigEndian.Uint32(b[4:]), blocks: binary.BigEndian.Uint64(b[8:]), agBlocks: binary.BigEndian.Uint32(b[84:]),
		agCount: binary.BigEndian.Uint32(b[88:]), inProgress: b[126] != 0, imaxpct: uint32(b[127]),
		sectorSize: uint32(binary.BigEndian.Uint16(b[102:])),
	}
	return s, s.isPlausible()
}

func (xs xfsSuperblock) isPlausible() bool {
	hi, total := bits.Mul64(xs.blocks, uint64(xs.blockSize))
	return hi == 0 && total <= math.MaxInt64 && xs.blocks > 0 && xs.agBlocks > 0 && xs.agCount > 0 &&
		xs.blockSize >= 512 && xs.blockSize <= 64<<10 && bits.OnesCount32(xs.blockSize) == 1
}

func (xs xfsSuperblock) size() volume.Size { return volume.Size(xs.blocks * uint64(xs.blockSize)) }

// btrfsSuperblock holds the fields of struct btrfs_super_block (linux/btrfs_tree.h)
// that this package uses.
type btrfsSuperblock struct {
	deviceBytes uint64 // size of the filesystem on this device
	devices     uint64
	sectorSize  uint32
	inProgress  bool // mkfs.btrfs has not finished: it writes the real magic last
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

// parseBtrfs reads the superblock found at btrfsOffset.
func parseBtrfs(b []byte) (s btrfsSuperblock, ok bool) {
	if !hasBtrfsMagic(b) {
		return btrfsSuperblock{}, false
	}
	s = btrfsSuperblock{
		deviceBytes: binary.LittleEndian.Uint64(b[209:]), devices: binary.LittleEndian.Uint64(b[136:]),
		sectorSize: binary.LittleEndian.Uint32(b[144:]), inProgress: string(b[64:72]) == btrfsInProgress,
	}
	ok = s.sectorSize >= 512 && s.sectorSize <= 64<<10 && s.deviceBytes > 0 && s.deviceBytes <= math.MaxInt64 && s.devices > 0
	return s, ok
}

func (bs btrfsSuperblock) size() volume.Size { return volume.Size(bs.deviceBytes) }

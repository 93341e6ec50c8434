package filesystem

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// extSpec describes an ext superblock to encode.
type extSpec struct {
	blocks                         uint64
	logBlock, logCluster           uint32 // log2 of a block in KiB, and of a cluster in blocks
	blocksPerGroup, inodesPerGroup uint32
	compat, incompat, roCompat     uint32
	state                          uint16
	errors, mountTime              uint32
	reserved                       uint16
	badChecksum                    bool
}

// ext4Spec describes the superblock that mkfs.ext4 makes for a size.
func ext4Spec(size volume.Size) extSpec {
	return extSpec{
		blocks: uint64(size / 4096), logBlock: 2, blocksPerGroup: 32768, inodesPerGroup: 8192,
		compat:   extCompatHasJournal | 0x38,
		incompat: extIncompatFiletype | extIncompat64bit | 0x240, roCompat: extROCompatMetadataCsum | 0x7B,
		state: extStateValid, reserved: 1024,
	}
}

// ext3Spec describes the superblock that mkfs.ext3 makes for a size.
func ext3Spec(size volume.Size) extSpec {
	s := ext4Spec(size)
	s.incompat, s.roCompat = extIncompatFiletype, extROCompatSparseSuper|extROCompatLargeFile
	return s
}

// extSpecOf describes a parsed superblock.
func extSpecOf(s extSuperblock) extSpec {
	log := uint32(0)
	for 1024<<log < s.blockSize {
		log++
	}
	return extSpec{
		blocks: s.blocks, logBlock: log, logCluster: uint32(bits.TrailingZeros32(s.clusterRatio)),
		blocksPerGroup: s.blocksPerGroup, inodesPerGroup: s.inodesPerGroup,
		compat: s.compat, incompat: s.incompat, roCompat: s.roCompat,
		state: s.state, errors: s.errorCount, mountTime: s.mountTime, reserved: uint16(s.reservedDescriptorBlocks),
	}
}

func (spec extSpec) withBlocks(n uint64) extSpec { spec.blocks = n; return spec }

func (spec extSpec) encode() []byte {
	b := make([]byte, extLength)
	le := binary.LittleEndian
	le.PutUint32(b[0:], spec.inodesPerGroup)
	le.PutUint32(b[4:], uint32(spec.blocks))
	if spec.logBlock == 0 {
		le.PutUint32(b[20:], 1)
	}
	le.PutUint32(b[24:], spec.logBlock)
	le.PutUint32(b[28:], spec.logBlock+spec.logCluster)
	le.PutUint32(b[32:], spec.blocksPerGroup)
	le.PutUint32(b[40:], spec.inodesPerGroup)
	le.PutUint32(b[44:], spec.mountTime)
	le.PutUint16(b[56:], unix.EXT4_SUPER_MAGIC)
	le.PutUint16(b[58:], spec.state)
	le.PutUint32(b[76:], 1)
	le.PutUint16(b[88:], 256)
	le.PutUint32(b[92:], spec.compat)
	le.PutUint32(b[96:], spec.incompat)
	le.PutUint32(b[100:], spec.roCompat)
	le.PutUint16(b[206:], spec.reserved)
	if spec.incompat&extIncompat64bit != 0 {
		le.PutUint16(b[254:], 64)
		le.PutUint32(b[336:], uint32(spec.blocks>>32))
	}
	le.PutUint32(b[404:], spec.errors)
	if spec.roCompat&extROCompatMetadataCsum != 0 && !spec.badChecksum {
		le.PutUint32(b[1020:], ^crc32.Checksum(b[:1020], crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}

func (spec extSpec) writeTo(d *fakeDevice) { copy(d.head[extOffset:], spec.encode()) }

// encodeXFS returns the start of an XFS superblock.
func encodeXFS(blocks uint64, inProgress bool) []byte {
	b := make([]byte, 512)
	copy(b, "XFSB")
	be := binary.BigEndian
	be.PutUint32(b[4:], 4096)
	be.PutUint64(b[8:], blocks)
	be.PutUint32(b[84:], uint32(blocks/4))
	be.PutUint32(b[88:], 4)
	be.PutUint16(b[102:], 512)
	if inProgress {
		b[126] = 1
	}
	b[127] = 25
	return b
}

// encodeBtrfs returns a btrfs superblock.
func encodeBtrfs(size uint64, magic string) []byte {
	b := make([]byte, btrfsLength)
	copy(b[64:], magic)
	le := binary.LittleEndian
	le.PutUint64(b[112:], size)
	le.PutUint64(b[136:], 1)
	le.PutUint32(b[144:], 4096)
	le.PutUint64(b[201:], 1)
	le.PutUint64(b[209:], size)
	return b
}

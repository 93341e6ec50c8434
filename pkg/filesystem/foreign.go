package filesystem

import (
	"bytes"
	"encoding/binary"
)

// magicString is a signature of something that is not a filesystem of this package: a
// string at a fixed place.
type magicString struct {
	name   string
	offset int // in bytes from the start of the device; negative: from its end
	magic  string
}

// foreignMagics lists what is recognized in the first and the last MiB, after the lists of
// libblkid and file(1). The names serve messages only: data that is not recognized is not
// overwritten either.
func foreignMagics() []magicString {
	return []magicString{
		{"LUKS encryption", 0, "LUKS\xba\xbe"},
		{"LUKS encryption (second header)", 0x4000, "SKUL\xba\xbe"},
		{"LUKS encryption (second header)", 0x8000, "SKUL\xba\xbe"},
		{"LVM2 physical volume", 0x018, "LVM2 001"},
		{"LVM2 physical volume", 0x218, "LVM2 001"},
		{"LVM2 physical volume", 0x418, "LVM2 001"},
		{"LVM2 physical volume", 0x618, "LVM2 001"},
		{"swap", 4096 - 10, "SWAPSPACE2"},
		{"swap", 4096 - 10, "SWAP-SPACE"},
		{"swap", 16384 - 10, "SWAPSPACE2"},
		{"swap", 65536 - 10, "SWAPSPACE2"},
		{"hibernation image", 4096 - 10, "S1SUSPEND"},
		{"MD RAID member", 0, "\xfc\x4e\x2b\xa9"},
		{"MD RAID member", 4096, "\xfc\x4e\x2b\xa9"},
		{"bcache or bcachefs", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
		{"bcachefs", 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
		{"Ceph BlueStore", 0, "bluestore block device"},
		{"Stratis pool", 512 + 4, "!Stra0tis\x86\xff\x02^\x41rh"},
		{"VDO volume", 0, "dmvdo001"},
		{"dm-verity hash area", 0, "verity\x00\x00"},
		{"dm-integrity volume", 0, "integrt\x00"},
		{"Oracle ASM disk", 32, "ORCLDISK"},
		{"QCOW image", 0, "QFI\xfb"},
		{"BitLocker volume", 3, "-FVE-FS-"},
		{"NTFS filesystem", 3, "NTFS    "},
		{"exFAT filesystem", 3, "EXFAT   "},
		{"FAT filesystem", 54, "FAT1"},
		{"FAT filesystem", 82, "FAT32   "},
		{"SquashFS filesystem", 0, "hsqs"},
		{"EROFS filesystem", 1024, "\xe2\xe1\xf5\xe0"},
		{"F2FS filesystem", 1024, "\x10\x20\xf5\xf2"},
		{"HFS+ filesystem", 1024, "H+\x00\x04"},
		{"HFS+ filesystem", 1024, "HX\x00\x05"},
		{"APFS container", 32, "NXSB"},
		{"NILFS2 filesystem", 1024, "\x02\x00\x00\x00\x00\x00\x34\x34"},
		{"ISO 9660 filesystem", 32769, "CD001"},
		{"UDF filesystem", 32769, "BEA01"},
		{"UDF filesystem", 32769, "NSR0"},
		{"JFS filesystem", 32768, "JFS1"},
		{"ReiserFS filesystem", 65536 + 52, "ReIsEr"},
		{"GFS2 filesystem", 65536, "\x01\x16\x19\x70"},
		{"OCFS2 filesystem", 1024, "OCFSV2"},
		{"OCFS2 filesystem", 2048, "OCFSV2"},
		{"OCFS2 filesystem", 4096, "OCFSV2"},
		{"ZFS pool member", 128 << 10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
		{"ZFS pool member", 128 << 10, "\x00\x00\x00\x00\x00\xba\xb1\x0c"},
		{"partition table (GPT)", 512, "EFI PART"},
		{"partition table (GPT)", 4096, "EFI PART"},
	}
}

// foreignTailMagics lists what is recognized only at the end of a device. Such a signature
// may be a leftover behind a good filesystem, so it counts only without a filesystem.
func foreignTailMagics() []magicString {
	return []magicString{
		{"partition table (GPT backup)", -512, "EFI PART"},
		{"partition table (GPT backup)", -4096, "EFI PART"},
		{"Intel RAID member", -1024, "Intel Raid ISM Cfg Sig."},
		{"DDF RAID member", -512, "\xde\x11\xde\x11"},
	}
}

// findMagic returns the name of the first magic string found in area, or "". area begins
// at the start of the device, or for negative offsets ends at its end.
func findMagic(area []byte, list []magicString) string {
	for _, m := range list {
		offset := m.offset
		if offset < 0 {
			offset += len(area)
		}
		if offset >= 0 && offset <= len(area) && bytes.HasPrefix(area[offset:], []byte(m.magic)) {
			return m.name
		}
	}
	return ""
}

// hasMBR reports whether the first sector holds a DOS partition table with at least one
// entry. The signature 0x55AA alone does not prove it: boot sectors of filesystems end with
// it too.
func hasMBR(area []byte) bool {
	if len(area) < 512 || area[510] != 0x55 || area[511] != 0xAA {
		return false
	}
	used := 0
	for i := range 4 {
		entry := area[446+16*i : 462+16*i] // the table begins at byte 446; an entry has 16 bytes
		if entry[0]&0x7F != 0 {            // the boot flag is 0x00 or 0x80
			return false
		}
		if entry[4] != 0 && binary.LittleEndian.Uint32(entry[12:]) != 0 { // the type and the number of sectors
			used++
		}
	}
	return used > 0
}

// hasMDSuperblock reports whether tail, the last bytes of a device of this size, holds an MD
// superblock of version 0.90 (aligned to 64 KiB, at least 64 KiB before the end) or 1.0
// (8 KiB before the end).
func hasMDSuperblock(tail []byte, size int64) bool {
	magic := []byte("\xfc\x4e\x2b\xa9")
	start := size - int64(len(tail))
	for _, superblock := range []int64{size&^(64<<10-1) - 64<<10, (size/512 - 16) &^ 7 * 512} {
		offset := superblock - start
		if offset >= 0 && offset <= int64(len(tail)) && bytes.HasPrefix(tail[offset:], magic) {
			return true
		}
	}
	return false
}

// isRandom reports whether data cannot be distinguished from random bytes. The unwritten
// sectors of an encrypted volume look random, and so does encrypted data.
func isRandom(data []byte) bool { return len(data) >= 64<<10 && isUniform(data) }

// isUniform reports whether all byte values are about equally frequent: whether their
// chi-square statistic (255 degrees of freedom) is within ten standard deviations of the
// value for equal frequencies.
func isUniform(data []byte) bool {
	const mean, deviation = 255, 22.6 // of the statistic; the deviation is the root of 2*255
	var counts [256]float64
	for _, b := range data {
		counts[b]++
	}
	expected := float64(len(data)) / 256
	chiSquare := 0.0
	for _, n := range counts {
		chiSquare += (n - expected) * (n - expected) / expected
	}
	return chiSquare < mean+10*deviation
}

// isZero reports whether all bytes are zero.
func isZero(data []byte) bool { return bytes.Count(data, []byte{0}) == len(data) }

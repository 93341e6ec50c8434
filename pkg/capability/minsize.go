package capability

import "github.com/growvol/growvol/pkg/volume"

// MinSize returns the size of the smallest device that can hold a new filesystem
// of the type, made with the options that this driver uses by default. It
// returns zero for a type that it does not know and for an empty one.
//
// The numbers are those at which mkfs of xfsprogs 6.1, btrfs-progs 6.2 and
// e2fsprogs 1.47 begins to succeed. mkfs.ext3 succeeds on less than 8 MiB, but
// leaves the journal out, and what it makes is ext2.
func MinSize(fstype string) volume.Size {
	switch fstype {
	case "xfs":
		return 300 * volume.MiB
	case "btrfs":
		return 109 * volume.MiB
	case "ext3":
		return 8 * volume.MiB
	case "ext2", "ext4":
		return 224 * volume.KiB
	}
	return 0
}

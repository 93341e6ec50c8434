package capability

import (
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// MinSize returns the size below which mkfs makes no filesystem of the type,
// as the node plugin calls it; zero for a type that it does not know, and for
// none. It was measured with the mkfs of the node's image (Debian 12: e2fsprogs
// 1.47.0, xfsprogs 6.1.0, btrfs-progs 6.2); a test of pkg/filesystem compares
// it with the real one from both sides. mkfs options of a StorageClass can change
// it: --mixed lets a btrfs be smaller, a journal of a given size makes an ext larger.
func MinSize(fstype string) volume.Size {
	switch strings.ToLower(strings.TrimSpace(fstype)) {
	case "ext2", "ext4":
		return 224 * volume.KiB
	case "ext3":
		return 8 * volume.MiB // a smaller one has no space for a journal
	case "xfs":
		return 300 * volume.MiB
	case "btrfs":
		return 109 * volume.MiB
	default:
		return 0
	}
}

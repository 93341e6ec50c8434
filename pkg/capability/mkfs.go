package capability

import (
	"regexp"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// MinFilesystemSize returns the size below which mkfs, as the node plugin calls it, creates no
// filesystem of the type; zero for an empty or unknown type. The sizes were measured with
// the mkfs of the node's image (Debian 12: e2fsprogs 1.47.0, xfsprogs 6.1.0, btrfs-progs
// 6.2); a test of pkg/filesystem checks each from both sides. mkfs options of a StorageClass
// can change it: --mixed lowers it for btrfs, a journal of a given size raises it for ext.
func MinFilesystemSize(fsType string) volume.Size {
	return map[string]volume.Size{
		"ext2":  224 * volume.KiB,
		"ext3":  8 * volume.MiB, // with a journal
		"ext4":  224 * volume.KiB,
		"xfs":   300 * volume.MiB,
		"btrfs": 109 * volume.MiB,
	}[strings.ToLower(strings.TrimSpace(fsType))]
}

// SplitMkfsOptions splits the StorageClass parameter mkfsOptions into arguments of mkfs. As in
// cinder-csi-plugin, blanks separate the arguments, and so does a comma before the next
// option. Other commas belong to a value: -E nodiscard,stride=4.
func SplitMkfsOptions(text string) []string {
	text = regexp.MustCompile(`,(\s*-|\s*$)`).ReplaceAllString(text, " $1")
	return strings.Fields(text)
}

package blockdev

import (
	"os"
	"path/filepath"
	"strings"
)

// MountedFilesystem returns the type of the filesystem that is mounted from the device, in
// whatever mount namespace; "" when there is none, or when the kernel does not show
// it in /sys/fs. It shows ext2, ext3 and ext4 (all as "ext4"), XFS, btrfs and F2FS.
// Unlike an attempt to open the device exclusively, the reading disturbs nobody who
// mounts or formats the device at the same moment.
func (s *System) MountedFilesystem(d Device) (fsType string) {
	name := filepath.Base(d.Name)
	for _, fsType := range []string{"ext4", "xfs", "f2fs"} {
		if info, err := os.Stat(filepath.Join(s.sysfs, "fs", fsType, name)); err == nil && info.IsDir() {
			return fsType
		}
	}
	// btrfs lists the devices of each filesystem below the filesystem's id.
	found, err := filepath.Glob(filepath.Join(s.sysfs, "fs", "btrfs", "*", "devices", quoteGlob(name)))
	if err == nil && len(found) > 0 {
		return "btrfs"
	}
	return ""
}

// quoteGlob escapes what filepath.Glob takes for a pattern.
func quoteGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}

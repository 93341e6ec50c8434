package blockdev

import (
	"os"
	"path/filepath"
	"strings"
)

// MountedFilesystem returns the type of the filesystem that is mounted from the device,
// in any mount namespace: "ext4" for ext2, ext3 and ext4, "xfs", "btrfs" or "f2fs".
// It returns "" when none is mounted, or one of a type that the kernel does not show in
// /sys/fs. The check only reads sysfs, so it does not disturb a mount or mkfs of the
// device at the same moment, as opening the device exclusively would.
func (s *System) MountedFilesystem(d Device) (fsType string) {
	name := filepath.Base(d.Name)
	for _, fsType := range []string{"ext4", "xfs", "f2fs"} {
		if info, err := os.Stat(filepath.Join(s.sysfs, "fs", fsType, name)); err == nil && info.IsDir() {
			return fsType
		}
	}
	// btrfs lists the devices of each filesystem below the UUID of the filesystem.
	found, err := filepath.Glob(filepath.Join(s.sysfs, "fs", "btrfs", "*", "devices", quoteGlob(name)))
	if err == nil && len(found) > 0 {
		return "btrfs"
	}
	return ""
}

// quoteGlob escapes the characters of name that have a meaning for filepath.Glob.
func quoteGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}

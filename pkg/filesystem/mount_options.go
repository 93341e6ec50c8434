package filesystem

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOption is an option that mount(8) turns into a flag ("filesystem-independent mount
// options" of its manual page), and its flag in three system calls.
type mountOption struct {
	set, unset string
	flag       uintptr // MS_* of mount(2)
	stFlag     int64   // ST_* of statfs(2); 0 if it does not report the flag
	attribute  uint64  // MOUNT_ATTR_* of mount_setattr(2); 0 if the flag is not of one mount
}

// mountOptions lists those options. All others go to the filesystem, as data.
func mountOptions() []mountOption {
	const stNoSymFollow = 0x2000 // ST_NOSYMFOLLOW of linux/statfs.h (since Linux 5.10)
	return []mountOption{
		{"ro", "rw", unix.MS_RDONLY, unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{"nosuid", "suid", unix.MS_NOSUID, unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{"nodev", "dev", unix.MS_NODEV, unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{"noexec", "exec", unix.MS_NOEXEC, unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{"noatime", "atime", unix.MS_NOATIME, unix.ST_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{"relatime", "norelatime", unix.MS_RELATIME, unix.ST_RELATIME, unix.MOUNT_ATTR_RELATIME},
		{"strictatime", "nostrictatime", unix.MS_STRICTATIME, 0, unix.MOUNT_ATTR_STRICTATIME},
		{"nodiratime", "diratime", unix.MS_NODIRATIME, unix.ST_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{"nosymfollow", "symfollow", unix.MS_NOSYMFOLLOW, stNoSymFollow, unix.MOUNT_ATTR_NOSYMFOLLOW},
		{"sync", "async", unix.MS_SYNCHRONOUS, 0, 0},
		{"dirsync", "", unix.MS_DIRSYNC, 0, 0},
		{"lazytime", "nolazytime", unix.MS_LAZYTIME, 0, 0},
		{"mand", "nomand", unix.MS_MANDLOCK, 0, 0},
		{"iversion", "noiversion", unix.MS_I_VERSION, 0, 0},
		{"silent", "loud", unix.MS_SILENT, 0, 0},
	}
}

// accessTimes are the flags of mount(2) that choose how access times are recorded. Only one of
// them can be set.
const accessTimes = unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

// isFstabOption reports whether an option has a meaning for /etc/fstab or mount(8) only.
func isFstabOption(option string) bool {
	if strings.HasPrefix(strings.ToLower(option), "x-") || strings.HasPrefix(option, "comment=") {
		return true
	}
	return slices.Contains([]string{
		"", "defaults", "_netdev", "nofail", "auto", "noauto", "user", "nouser", "users", "owner", "group",
	}, option)
}

// parseMountOptions splits mount options into the flags and the data of mount(2). A later
// option overrides an earlier one. One element may hold several options, separated by
// commas that are not inside double quotes, which the contexts of SELinux need
// (context="system_u:object_r:t:s0:c1,c2").
func parseMountOptions(options []string) (flags uintptr, data string) {
	known := mountOptions()
	var rest []string
	for _, element := range options {
		for _, option := range splitUnquoted(element) {
			i := slices.IndexFunc(known, func(o mountOption) bool { return option == o.set || option == o.unset })
			switch {
			case isFstabOption(option):
			case i < 0:
				rest = append(rest, option)
			case option == known[i].unset:
				flags &^= known[i].flag
			case known[i].flag&accessTimes != 0:
				flags = flags&^accessTimes | known[i].flag
			default:
				flags |= known[i].flag
			}
		}
	}
	return flags, strings.Join(rest, ",")
}

// RequestsReadOnly reports whether mount options request a read-only mount. One element may
// hold several options, separated by commas, and the last one of "ro" and "rw" counts, as
// for mount(8).
func RequestsReadOnly(options []string) bool {
	flags, _ := parseMountOptions(options)
	return flags&unix.MS_RDONLY != 0
}

// splitUnquoted splits at the commas that are not inside double quotes.
func splitUnquoted(s string) []string {
	isQuoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			isQuoted = !isQuoted
		}
		return r == ',' && !isQuoted
	})
}

// remountFlags turns the flags of a mount, as statfs(2) reports them, into those of
// mount(2): a remount drops every flag that it is not given.
func remountFlags(st int64) (flags uintptr) {
	for _, o := range mountOptions() {
		if st&o.stFlag != 0 {
			flags |= o.flag
		}
	}
	return flags
}

// mountAttributes turns flags of mount(2) into those of mount_setattr(2), as far as they
// belong to one mount and not to the whole filesystem. The modes of access times are one
// field, which must be unset before it is set.
func mountAttributes(flags uintptr) (set, unset uint64) {
	for _, o := range mountOptions() {
		if flags&o.flag != 0 {
			set |= o.attribute
		}
	}
	if flags&accessTimes != 0 {
		unset = unix.MOUNT_ATTR__ATIME
	}
	return set, unset
}

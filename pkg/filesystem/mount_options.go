package filesystem

import (
	"strings"

	"golang.org/x/sys/unix"
)

// mountFlag is what an option word does to the flags of mount(2).
type mountFlag struct {
	set, clear uintptr
}

// mountFlags maps the option words that mount(8) turns into flags; all other
// words go to the filesystem as data (mount(8), "filesystem-independent mount
// options").
func mountFlags() map[string]mountFlag {
	return map[string]mountFlag{
		"ro": {set: unix.MS_RDONLY}, "rw": {clear: unix.MS_RDONLY},
		"nosuid": {set: unix.MS_NOSUID}, "suid": {clear: unix.MS_NOSUID},
		"nodev": {set: unix.MS_NODEV}, "dev": {clear: unix.MS_NODEV},
		"noexec": {set: unix.MS_NOEXEC}, "exec": {clear: unix.MS_NOEXEC},
		"sync": {set: unix.MS_SYNCHRONOUS}, "async": {clear: unix.MS_SYNCHRONOUS}, "dirsync": {set: unix.MS_DIRSYNC},
		"noatime": {set: unix.MS_NOATIME, clear: unix.MS_RELATIME | unix.MS_STRICTATIME}, "atime": {clear: unix.MS_NOATIME},
		"nodiratime": {set: unix.MS_NODIRATIME}, "diratime": {clear: unix.MS_NODIRATIME},
		"relatime": {set: unix.MS_RELATIME, clear: unix.MS_NOATIME | unix.MS_STRICTATIME}, "norelatime": {clear: unix.MS_RELATIME},
		"strictatime": {set: unix.MS_STRICTATIME, clear: unix.MS_NOATIME | unix.MS_RELATIME}, "nostrictatime": {clear: unix.MS_STRICTATIME},
		"lazytime": {set: unix.MS_LAZYTIME}, "nolazytime": {clear: unix.MS_LAZYTIME},
		"mand": {set: unix.MS_MANDLOCK}, "nomand": {clear: unix.MS_MANDLOCK},
		"nosymfollow": {set: unix.MS_NOSYMFOLLOW}, "symfollow": {clear: unix.MS_NOSYMFOLLOW},
		"iversion": {set: unix.MS_I_VERSION}, "noiversion": {clear: unix.MS_I_VERSION},
		"silent": {set: unix.MS_SILENT}, "loud": {clear: unix.MS_SILENT},
		// Words for /etc/fstab and mount(8) only.
		"defaults": {}, "_netdev": {}, "nofail": {}, "auto": {}, "noauto": {}, "user": {}, "nouser": {}, "users": {}, "owner": {}, "group": {},
	}
}

// parseMountFlags splits mount options into the flags and the data of
// mount(2). A later word wins over an earlier one. One element may hold
// several words, separated by commas outside of double quotes, which
// SELinux contexts need (context="system_u:object_r:t:s0:c1,c2").
func parseMountFlags(options []string) (flags uintptr, data string) {
	known := mountFlags()
	var rest []string
	for _, option := range options {
		for _, word := range splitUnquoted(option) {
			switch f, ok := known[word]; {
			case ok:
				flags = flags&^f.clear | f.set
			case word == "", strings.HasPrefix(word, "x-"), strings.HasPrefix(word, "X-"), strings.HasPrefix(word, "comment="):
				// for mount(8) only
			default:
				rest = append(rest, word)
			}
		}
	}
	return flags, strings.Join(rest, ",")
}

// RequestsReadOnly reports whether mount options ask for a read-only mount. One
// element may hold several options, separated by commas, and of "ro" and "rw"
// the last counts, as for mount(8).
func RequestsReadOnly(options []string) bool {
	flags, _ := parseMountFlags(options)
	return flags&unix.MS_RDONLY != 0
}

// splitUnquoted splits at commas that are not inside double quotes.
func splitUnquoted(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}

// remountFlags are the flags of a mount, as statfs(2) tells them (ST_*), in the
// form that mount(2) wants for a remount, which would otherwise drop them.
func remountFlags(st int64) uintptr {
	var flags uintptr
	for _, f := range []struct {
		st int64
		ms uintptr
	}{
		{unix.ST_RDONLY, unix.MS_RDONLY},
		{unix.ST_NOSUID, unix.MS_NOSUID},
		{unix.ST_NODEV, unix.MS_NODEV},
		{unix.ST_NOEXEC, unix.MS_NOEXEC},
		{unix.ST_NOATIME, unix.MS_NOATIME},
		{unix.ST_NODIRATIME, unix.MS_NODIRATIME},
		{unix.ST_RELATIME, unix.MS_RELATIME},
		{stNoSymFollow, unix.MS_NOSYMFOLLOW},
	} {
		if st&f.st != 0 {
			flags |= f.ms
		}
	}
	return flags
}

// mountAttributes turns flags of mount(2) into those of mount_setattr(2), as
// far as they belong to one mount and not to the whole filesystem. One access
// time mode replaces another.
func mountAttributes(flags uintptr) (set, unset uint64) {
	for _, f := range []struct {
		ms   uintptr
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
		{unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
	} {
		if flags&f.ms != 0 {
			set |= f.attr
		}
	}
	if flags&(unix.MS_NOATIME|unix.MS_STRICTATIME|unix.MS_RELATIME) != 0 {
		unset = unix.MOUNT_ATTR__ATIME
	}
	return set, unset
}

// stNoSymFollow is ST_NOSYMFOLLOW of linux/statfs.h (since Linux 5.10).
const stNoSymFollow = 0x2000

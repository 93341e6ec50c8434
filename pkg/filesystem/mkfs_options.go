package filesystem

import (
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// mkfsOptions returns the options for mkfs: the safe profile, then those of the user. The
// profile is:
//
//   - ext: blocks of 4 KiB, no discard. runMkfs adds that no blocks are reserved for root.
//   - XFS: no discard; only errors are printed, so that a message ends with them. mkfs.xfs
//     chooses the size of the allocation groups, which is fixed by the first size.
//   - btrfs: no discard.
//
// Discard is left out because the device is blank: on a sparse backend it frees nothing,
// and on Ceph RBD it costs one operation per 4 MiB of the volume. "-E discard" turns it on
// for ext.
//
// The error is of kind Invalid: an option would break growth or names another device.
func mkfsOptions(t Type, user []string) ([]string, error) {
	words, err := splitOptionWords(user)
	if err != nil {
		return nil, err
	}
	if w := findSecondDevice(t, words); w != "" {
		return nil, volume.Errorf(volume.KindInvalid, "mkfs option %q names another device or file", w).
			WithRemedy("remove it from the mkfs options of the StorageClass: " +
				"a volume is one device, and holds its journal and all its data")
	}
	switch t {
	case TypeExt2, TypeExt3, TypeExt4:
		return extOptions(words)
	case TypeXFS:
		return append([]string{"-K", "-q"}, words...), nil
	case TypeBtrfs:
		return append([]string{"-K"}, words...), nil
	default:
		return nil, volume.Errorf(volume.KindInvalid, "filesystem type %q is not supported", t)
	}
}

// extBlockSize is the block size of every ext filesystem that this package makes, in
// bytes. mke2fs itself would choose 1 KiB below 512 MiB, for the life of the filesystem:
// growing it to 1 TiB then takes minutes instead of a second, and it ends at 4 TiB without
// the 64bit feature.
const extBlockSize = "4096"

// splitOptionWords splits the user's options into words. It refuses a word that could be
// a second device, which mkfs.btrfs would format as well. It allows "options=/…", the
// configuration file of mkfs.xfs.
func splitOptionWords(user []string) ([]string, error) {
	words := strings.Fields(strings.Join(user, " "))
	for _, w := range words {
		if strings.Contains(w, "/") && !strings.HasPrefix(w, "options=/") {
			return nil, volume.Errorf(volume.KindInvalid, "mkfs option %q names a path", w).
				WithRemedy("remove it from the mkfs options of the StorageClass: a volume is formatted on its own device alone")
		}
	}
	return words, nil
}

// findSecondDevice returns the first word that puts a part of the filesystem on another
// device, without which the volume could be grown, moved and copied: the external journal
// of ext (a path, or "UUID=..." and "LABEL=...", which mke2fs looks up on the node), or the
// log, realtime or data device of XFS.
func findSecondDevice(t Type, words []string) string {
	var settings []string
	switch {
	case t.IsExt():
		settings = []string{"device="}
	case t == TypeXFS:
		settings = []string{"logdev=", "rtdev=", "name="}
	}
	for _, w := range words {
		for part := range strings.SplitSeq(w, ",") {
			if len(part) > 2 && part[0] == '-' {
				part = part[2:] // "-Jdevice=..."
			}
			if slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(part, s) }) {
				return w
			}
		}
	}
	return ""
}

// extOptions merges the profile with the user's words. mke2fs obeys only the last -E, so
// all extended options go into one.
func extOptions(words []string) ([]string, error) {
	extended := "nodiscard"
	var rest []string
	for i := 0; i < len(words); i++ {
		flag, value, used := splitFlag(words, i)
		switch {
		case flag == "-b" && value != extBlockSize:
			return nil, volume.Errorf(volume.KindInvalid,
				"mkfs option -b %s is not supported: only ext with blocks of %s bytes grows well online", value, extBlockSize).
				WithRemedy("remove -b from the mkfs options of the StorageClass")
		case flag == "-b":
		case flag == "-O" && slices.Contains(strings.Split(value, ","), "sparse_super2"):
			return nil, volume.Errorf(volume.KindInvalid,
				"mkfs option -O sparse_super2 is not supported: the kernel cannot grow such a filesystem online").
				WithRemedy("remove sparse_super2 from the mkfs options of the StorageClass")
		case flag == "-E":
			extended += "," + value
		default:
			rest = append(rest, words[i:i+used]...)
		}
		i += used - 1
	}
	return append([]string{"-b", extBlockSize, "-E", extended}, rest...), nil
}

// splitFlag reads the flag at words[i]. Its value may be joined to it ("-b1024") or be the
// next word. used is the number of words that flag and value take; a flag other than -b, -O
// and -E takes one, without a value.
func splitFlag(words []string, i int) (flag, value string, used int) {
	w := words[i]
	for _, f := range []string{"-b", "-O", "-E"} {
		switch {
		case w == f && i+1 < len(words):
			return f, words[i+1], 2
		case strings.HasPrefix(w, f) && len(w) > len(f):
			return f, w[len(f):], 1
		}
	}
	return w, "", 1
}

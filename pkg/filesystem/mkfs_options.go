package filesystem

import (
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// extBlockSize is the one block size this package gives to ext filesystems.
// mke2fs itself takes 1 KiB below 512 MiB, and that stays for good: growing
// such a filesystem to 1 TiB takes minutes instead of a second, and its limit
// without the 64bit feature is 4 TiB.
const extBlockSize = "4096"

// mkfsArgs returns the options for mkfs: the safe profile, then those of the
// user. The profile is:
//
//   - ext: 4 KiB blocks always; no blocks reserved for root; no discard.
//   - XFS, btrfs: no discard. The allocation groups of XFS are left to
//     mkfs.xfs: they cannot be larger than the first size allows. XFS tells
//     errors only, so that a message ends with them.
//
// Discard is left out because the device was just found blank: on a sparse
// backend there is nothing to give back, and on Ceph RBD the request costs one
// operation per 4 MiB of the volume. "-E discard" brings it back for ext.
//
// The error is of kind Invalid: an option would break growth or name another
// device.
func mkfsArgs(t Type, user []string) ([]string, error) {
	words, err := splitOptionWords(user)
	if err != nil {
		return nil, err
	}
	if w := findSecondDevice(t, words); w != "" {
		return nil, volume.Errorf(volume.KindInvalid, "mkfs option %q names another device or file", w).
			WithRemedy("remove it from the StorageClass: a volume is one device, and holds its journal and all its data")
	}
	switch t {
	case TypeExt2, TypeExt3, TypeExt4:
		return extArgs(words)
	case TypeXFS:
		return append([]string{"-K", "-q"}, words...), nil
	case TypeBtrfs:
		return append([]string{"-K"}, words...), nil
	default:
		return nil, volume.Errorf(volume.KindInvalid, "filesystem type %q is not supported", t)
	}
}

// splitOptionWords splits the user's options into words. Words that could stand for
// a second device are refused: mkfs.btrfs would format it too.
func splitOptionWords(user []string) ([]string, error) {
	var words []string
	for _, option := range user {
		for _, w := range strings.Fields(option) {
			if strings.Contains(w, "/") && !strings.HasPrefix(w, "options=/") {
				return nil, volume.Errorf(volume.KindInvalid, "mkfs option %q names a path", w).
					WithRemedy("remove it from the StorageClass: a volume is formatted on its own device alone")
			}
			words = append(words, w)
		}
	}
	return words, nil
}

// findSecondDevice returns the first word that puts a part of the filesystem
// elsewhere, which could be grown, moved and copied without it: the external
// journal of ext (a path, or "UUID=..." and "LABEL=...", which mke2fs looks
// for on the node), the log, realtime and data devices of XFS.
func findSecondDevice(t Type, words []string) string {
	var names []string
	switch {
	case t.IsExt():
		names = []string{"device="}
	case t == TypeXFS:
		names = []string{"logdev=", "rtdev=", "name="}
	}
	for _, w := range words {
		for _, part := range strings.Split(w, ",") {
			if len(part) > 2 && part[0] == '-' {
				part = part[2:] // "-Jdevice=..."
			}
			if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(part, n) }) {
				return w
			}
		}
	}
	return ""
}

// extArgs merges the profile with the user's words: mke2fs forgets all but the
// last -E, so both must stand in one.
func extArgs(words []string) ([]string, error) {
	extended := "nodiscard"
	var rest []string
	for i := 0; i < len(words); i++ {
		flag, value, used := splitFlag(words, i)
		switch {
		case flag == "-b" && value != extBlockSize:
			return nil, volume.Errorf(volume.KindInvalid, "mkfs option -b %s: only a block size of %s grows well online", value, extBlockSize).
				WithRemedy("remove -b from the mkfs options of the StorageClass")
		case flag == "-b":
		case flag == "-O" && slices.Contains(strings.Split(value, ","), "sparse_super2"):
			return nil, volume.Errorf(volume.KindInvalid, "mkfs option -O sparse_super2: the kernel cannot grow such a filesystem online").
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

// splitFlag reads the flag at i, whose value may be joined to it ("-b1024") or
// be the next word. used is the number of words it takes; for flags this
// package does not care about it is 1.
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

package filesystem

import (
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Type is a filesystem that this package can make and grow, by its usual name.
type Type string

// The filesystems.
const (
	TypeExt2  Type = "ext2"
	TypeExt3  Type = "ext3"
	TypeExt4  Type = "ext4"
	TypeXFS   Type = "xfs"
	TypeBtrfs Type = "btrfs"
)

// ParseType reads the fsType of a volume capability. Case and surrounding white space do
// not matter. The error is of kind Invalid.
func ParseType(s string) (Type, error) {
	switch t := Type(strings.ToLower(strings.TrimSpace(s))); t {
	case TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs:
		return t, nil
	default:
		return "", volume.Errorf(volume.KindInvalid, "filesystem type %q is not supported", s).
			WithRemedy("set csi.storage.k8s.io/fstype in the StorageClass, or fsType in the PersistentVolume, " +
				"to one of ext4, xfs, ext3, ext2, btrfs")
	}
}

// IsExt reports whether t is ext2, ext3 or ext4, which share one superblock, one kernel
// driver and one set of tools.
func (t Type) IsExt() bool { return t == TypeExt2 || t == TypeExt3 || t == TypeExt4 }

// Accepts reports whether a volume for which type t is requested may be mounted when it
// holds found; it is then mounted as found. The empty type accepts every type.
//
// Accepts follows mount(8), as the cinder-csi driver does, so that the volumes and
// snapshots of that driver stay usable: the kernel's ext4 driver mounts all three ext
// types, and its ext2 driver mounts an ext3 without using the journal. Accepts refuses
// what the kernel refuses: the ext3 driver needs a journal, and neither ext2 nor ext3
// knows the features of ext4.
func (t Type) Accepts(found Type) bool {
	switch t {
	case "", found:
		return true
	case TypeExt4:
		return found.IsExt()
	case TypeExt2:
		return found == TypeExt3
	default:
		return false
	}
}

// mountType returns the type to give to mount(2): ext2 is mounted by the ext4 driver, because
// the ext2 driver cannot grow it online.
func (t Type) mountType() Type {
	if t == TypeExt2 {
		return TypeExt4
	}
	return t
}

// repairRemedy returns the instruction to repair a filesystem on a device. For btrfs it is
// the check alone, because the repair of "btrfs check" can lose data.
func (t Type) repairRemedy(device string) string {
	command := "btrfs check "
	switch {
	case t.IsExt():
		command = "e2fsck -f "
	case t == TypeXFS:
		command = "xfs_repair "
	}
	return "unmount the volume everywhere and run: " + command + device
}

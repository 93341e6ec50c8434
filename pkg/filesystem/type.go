package filesystem

import (
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// Type is a filesystem this package can make and grow, by its usual name.
type Type string

// The filesystems.
const (
	TypeExt2  Type = "ext2"
	TypeExt3  Type = "ext3"
	TypeExt4  Type = "ext4"
	TypeXFS   Type = "xfs"
	TypeBtrfs Type = "btrfs"
)

// ParseType reads the fsType of a volume capability; case and surrounding
// blanks do not matter. The error is of kind Invalid.
func ParseType(s string) (Type, error) {
	switch t := Type(strings.ToLower(strings.TrimSpace(s))); t {
	case TypeExt2, TypeExt3, TypeExt4, TypeXFS, TypeBtrfs:
		return t, nil
	default:
		return "", volume.Errorf(volume.KindInvalid, "filesystem type %q is not supported", s).
			WithRemedy("use one of ext4, xfs, ext3, ext2, btrfs")
	}
}

// IsExt tells whether t is of the ext family, which shares one superblock, one
// kernel driver and one set of tools.
func (t Type) IsExt() bool { return t == TypeExt2 || t == TypeExt3 || t == TypeExt4 }

// Accepts reports whether a volume that is wanted as type t may be mounted when
// it holds found; it is then mounted as found. The empty type accepts every type.
//
// Accepts follows mount(8), as the cinder-csi driver does, so that the volumes
// and snapshots of that driver stay usable: the kernel's ext4 driver mounts all
// three ext types, and its ext2 driver mounts an ext3 without using the journal.
// Accepts refuses what the kernel refuses: the ext3 driver needs a journal, and
// neither ext2 nor ext3 knows the features of ext4.
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

// mountType is the type to mount t as.
func (t Type) mountType() Type {
	if t == TypeExt2 {
		return TypeExt4
	}
	return t
}

// The f_type values of statfs(2) (linux/magic.h).
const (
	extMagic   = 0xEF53     // EXT2_SUPER_MAGIC, EXT3_SUPER_MAGIC, EXT4_SUPER_MAGIC
	xfsMagic   = 0x58465342 // XFS_SUPER_MAGIC
	btrfsMagic = 0x9123683E // BTRFS_SUPER_MAGIC
)

// typeOfMagic names the filesystem that statfs(2) reports; for the ext family it
// is Ext4, since the magic number does not tell the three apart.
func typeOfMagic(magic uint32) (Type, bool) {
	switch magic {
	case extMagic:
		return TypeExt4, true
	case xfsMagic:
		return TypeXFS, true
	case btrfsMagic:
		return TypeBtrfs, true
	default:
		return "", false
	}
}

package claim

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/volume"
)

// MaxUnused is the size of a volume that may lie outside of its filesystem: a LUKS header (16 MiB)
// or a partition table, and a last block group that is too small for ext4 or XFS. This file finds
// how much smaller a filesystem is than its claim says.
const MaxUnused = 32 * volume.MiB

// shortage returns how many bytes of the claim's size its filesystem, or the device of a raw block
// volume, lacks at least, by the driver's reading if there is one, otherwise by kubelet's. size is
// what was read. isOld reports that the reading is older than the last growth of the claim, so that
// it does not say what is missing now.
func shortage(o Objects) (missing, size volume.Size, isOld bool) {
	name := LayerFilesystem
	if isBlock(o.Claim) {
		name = LayerDevice
	}
	readAt := time.Time{}
	if l := driverLayer(o, name); l != nil {
		missing, size, readAt = max(0, Capacity(o.Claim)-l.Size-MaxUnused), l.Size, l.ReadAt
	} else if stats := o.Stats.Value; stats != nil {
		missing, size, readAt = missingBytes(o), stats.Capacity, stats.ReadAt
	}
	return missing, size, missing > 0 && !isAfterGrowth(o, readAt)
}

// driverLayer returns the layer of that name that the driver has read, or nil.
func driverLayer(o Objects, name LayerName) *Layer {
	i := slices.IndexFunc(o.Driver.Value, func(l Layer) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &o.Driver.Value[i]
}

// missingBytes returns how many bytes of the claim's size its filesystem, or the device of a raw
// block volume, lacks at least. It is 0 if nothing is known to be missing.
//
// kubelet reports the size that df shows: the filesystem's size without its own tables. They are at
// most maxOverhead of that size, which is itself unknown. The loop starts with the size that the
// claim says, and computes a smaller one until the size is that of a filesystem for which df shows
// this much.
func missingBytes(o Objects) volume.Size {
	stats := o.Stats.Value
	if stats == nil {
		return 0
	}
	const maxSteps = 8 // each step at least halves the error, and ends above the true size
	capacity := Capacity(o.Claim)
	size := capacity
	for range maxSteps {
		size = min(size, stats.Capacity+maxOverhead(o, size))
	}
	return capacity - size
}

// maxClockSkew is the assumed difference between the clocks of a node, which dates the readings,
// and of the API server, which dates the growth.
const maxClockSkew = 10 * time.Second

// isAfterGrowth reports whether a reading is newer than the claim's capacity. An older one shows
// the filesystem before its growth.
func isAfterGrowth(o Objects, readAt time.Time) bool { return IsAfterGrowth(o.Claim, readAt) }

// IsAfterGrowth reports whether a time of a node's clock is after the last change of the claim's
// capacity. The claim must have its managedFields.
func IsAfterGrowth(c *corev1.PersistentVolumeClaim, t time.Time) bool {
	return t.After(statusTime(c).Add(maxClockSkew))
}

// minFilesystem returns the size in bytes that df shows at least of the claim's filesystem if it
// fills a volume of the size.
func minFilesystem(o Objects, size volume.Size) volume.Size { return size - maxOverhead(o, size) }

// maxOverhead returns how many bytes of a volume of the size df does not show at most, for the
// claim's filesystem:
//
//   - ext2, ext3, ext4: the inode tables (kubelet reports the number of inodes, which grows with
//     the filesystem; each has 256 bytes unless mkfs was told otherwise), the journal, and bitmaps
//     and group descriptors;
//   - XFS: the log, which mkfs.xfs makes at most 2 GiB large, and of small filesystems 64 MiB or at
//     most a sixteenth;
//   - btrfs and raw block volumes: nothing, because df and kubelet count the whole device;
//   - others, and if the type is not known: 7 % and 64 MiB, which is more than ext4 with the most
//     inodes that mkfs.ext4 chooses by itself.
func maxOverhead(o Objects, size volume.Size) volume.Size {
	if isBlock(o.Claim) {
		return MaxUnused
	}
	inodes := o.Stats.Value.Inodes
	switch fsType := filesystemType(o); {
	case slices.Contains([]string{"ext2", "ext3", "ext4"}, fsType) && inodes > 0:
		const inodeSize = 256
		groups := min(64*volume.MiB, size/64) + size/2048
		return MaxUnused + volume.Size(min(inodes, 1<<40))*inodeSize + maxJournal(size) + groups
	case fsType == "xfs":
		return MaxUnused + min(2*volume.GiB, max(64*volume.MiB, size/16))
	case fsType == "btrfs":
		return MaxUnused
	}
	return size/100*7 + 64*volume.MiB
}

// maxJournal returns the size of the largest journal that mkfs.ext4 gives a filesystem of at most
// the size (ext2fs_default_journal_size in lib/ext2fs/mkjournal.c of e2fsprogs).
func maxJournal(size volume.Size) volume.Size {
	switch {
	case size < 128*volume.MiB:
		return 4 * volume.MiB
	case size < volume.GiB:
		return 16 * volume.MiB
	case size < 2*volume.GiB:
		return 32 * volume.MiB
	case size < 16*volume.GiB:
		return 64 * volume.MiB
	case size < 32*volume.GiB:
		return 128 * volume.MiB
	case size < 64*volume.GiB:
		return 256 * volume.MiB
	case size < 128*volume.GiB:
		return 512 * volume.MiB
	}
	return volume.GiB
}

// filesystemType returns the type in the PersistentVolume, or an empty text if it is not known.
func filesystemType(o Objects) string {
	if pv := o.Volume.Value; pv != nil && pv.Spec.CSI != nil {
		return pv.Spec.CSI.FSType
	}
	return ""
}

// Package filesystem probes, makes, checks, mounts, measures and grows ext2,
// ext3, ext4, XFS and btrfs on Linux. It is the only place that knows
// filesystem superblocks and ioctls.
//
// Growth is done by the kernel's own ioctls on a descriptor of the mount
// point; no program is started for it. Every size it reports was read back
// from the filesystem: from the ext superblock, by XFS_IOC_FSGEOMETRY or by
// BTRFS_IOC_DEV_INFO, never from statfs, which leaves metadata out.
//
// All errors are of type *volume.Error. Kind Precondition stands for a state
// that does not pass by itself and names the way out.
package filesystem

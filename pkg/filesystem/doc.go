// Package filesystem probes, makes, checks, mounts, measures and grows ext2, ext3, ext4,
// XFS and btrfs on Linux. It is the only package that knows filesystem superblocks and
// filesystem ioctls.
//
// Begin with New. Most calls take a Device: an open block device that the caller has
// identified as the volume. blockdev.Handle is the real one. A volume passes through the
// calls in this order:
//
//	fs := filesystem.New(filesystem.Options{})
//	signature, err := fs.Probe(ctx, device)                   // blank, formatted or foreign
//	err = fs.Format(ctx, filesystem.FormatRequest{…})         // only a blank device
//	err = fs.Check(ctx, device, filesystem.TypeExt4)          // e2fsck -p
//	err = fs.Mount(ctx, filesystem.MountRequest{…})
//	growth, err := fs.Grow(ctx, filesystem.GrowRequest{…})    // online, to the device's size
//	m, mounted, err := fs.FindMount("/staging")
//	err = fs.Unmount(ctx, m)
//
// The kernel's own ioctls grow a filesystem, on a descriptor of its mount point. A tool
// (resize2fs, xfs_growfs, btrfs) is run only where the kernel lacks the ioctl. Every
// reported size was read back: from the ext superblock, by XFS_IOC_FSGEOMETRY or by
// BTRFS_IOC_DEV_INFO. It never comes from statfs(2), which leaves out metadata.
//
// All errors are of type *volume.Error. Kind Precondition stands for a state that does
// not pass by itself; the error then names the way out.
//
// The package stands above pkg/blockdev, which opens, sizes and numbers devices, and
// below pkg/node, which decides when to format, mount and grow.
package filesystem

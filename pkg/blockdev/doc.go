// Package blockdev finds, identifies, sizes and opens the block devices of a Linux
// machine. It reads sysfs, calls ioctls and listens to the kernel's device events; it
// runs no program.
//
// Begin with New. ByPath and ByNumber find a device, Stack walks from a mapping or a
// partition down to the whole disk, Serial tells which disk it is, and AwaitSize waits
// until the disk has grown:
//
//	devices := blockdev.New()
//	device, err := devices.ByPath("/dev/dm-0")
//	layers, err := devices.Stack(device) // dm-0, vdb
//	disk := layers[len(layers)-1]
//	size, err := devices.AwaitSize(ctx, disk, 20*volume.GiB)
//
// A Device is a name and a number, and the kernel gives both to another disk when the
// first one is removed. An open Handle keeps the number: what was verified while the
// handle is open stays true until Close.
//
// The package believes only what it can check. It does not use the links of /dev/disk, it
// compares the number of every device node it opens, and it reads sizes from the device
// (BLKGETSIZE64). Only sysfs can prove that a device is gone; the error then wraps
// volume.ErrGone. Errors are, or wrap, a *volume.Error with a kind and a next step, except
// those of reads and of NumberOf.
//
// The package stands below everything that works on the node: pkg/filesystem and
// pkg/luks read and write the devices it opens; pkg/attached, pkg/loop and pkg/instance
// look for disks with it; pkg/node calls it for every stage and expansion. It imports
// pkg/volume (sizes, errors) and pkg/operation (bounded waits) alone.
package blockdev

// Package vm runs QEMU machines for tests. Disks are plugged into a machine,
// resized and unplugged while its guest runs. QEMU emulates the CPU, so that no
// virtualization is needed, and the kernel is the one that Debian makes for clouds.
// (tests/guest has guests that boot faster, but get no disks while they run.)
//
// To begin, build an image and boot it:
//
//	image, err := vm.BuildImage(ctx, dir, vm.ImageOptions{})
//	m, err := vm.Start(ctx, vm.Options{Image: image})
//	defer m.Close()
//	err = m.AddDisk(ctx, vm.Disk{Name: "data", Bus: vm.VirtioBlk, Serial: id, Size: volume.GiB})
//	out, err := m.Run(ctx, vm.Command{Argv: []string{"ls", "/sys/block"}})
//	err = m.ResizeDisk(ctx, "data", 2*volume.GiB)
//
// An image is the kernel and an initial RAM filesystem with the agent as process 1,
// kernel modules, the filesystem tools that growvol-node calls, growvol-node and what
// the caller adds. It also boots as a Nova instance, with the kernel parameters of
// CommandLine; Dial then connects to its agent.
//
// The agent configures every network interface for QEMU's user-mode network (address
// 10.0.2.15), executes programs on request and forwards connections to the socket of
// the node plugin. It has no authentication: it runs in guests of tests only, whose
// ports QEMU opens on loopback.
package vm

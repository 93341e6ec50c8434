// Package vm gives tests a machine of their own into which disks are plugged
// while it runs, and whose disks grow under it: QEMU in software emulation, so
// that it needs no virtualization, with the kernel that Debian makes for clouds.
//
// An image is that kernel and an initial RAM filesystem that holds our process
// 1 (the agent), kernel modules, the filesystem tools that growvol-node calls,
// growvol-node itself and what else the caller wants. It boots as a QEMU
// machine (Start), and as well as a Nova instance with the kernel command line
// "console=ttyS0 rdinit=/init".
//
// The agent gives every network interface that appears, now or later, the
// address that QEMU's user-mode network expects (10.0.2.15), executes programs
// on request and carries connections to the socket of the node plugin. It
// knows no authentication whatever: it lives in guests of tests, whose ports
// QEMU opens on loopback only.
package vm

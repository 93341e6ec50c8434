// Package ceph gives tests a real Ceph, and guests with the kernel's RBD client as nodes:
//
//	if err := ceph.EnterNamespace(dir); err != nil { … }   // in TestMain
//	rig := ceph.Open(dir)
//	node, err := rig.Boot(ctx, ceph.NodeOptions{Number: 1, …})
//	output, err := node.Run(ctx, vm.Command{Argv: []string{"lsblk"}})
//	node.Cut()                                             // the node no longer reaches Ceph
//
// The Ceph is one monitor, one manager and three OSDs in a network namespace of this machine. The
// programs of this directory control it: up starts it, down ends it, service disturbs one of its
// daemons, exec runs Ceph's own tools. The directory rig has their parts. A node is a User-Mode
// Linux guest (package guest) in which the agent of package vm runs; its network interface is a
// port of the namespace's bridge. The tests of this package run the plugins with the rbd backend.
package ceph

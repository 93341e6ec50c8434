// Package openstack gives tests a real OpenStack: a client of its APIs that is independent of the
// driver, and Nova instances that boot from the images of package vm and run its agent:
//
//	rig, err := openstack.Open(ctx, os.Getenv("GROWVOL_OPENSTACK_DIR"), "test")
//	instance, err := rig.Boot(ctx, openstack.Options{Name: "guest", Image: image, …})
//	output, err := instance.Run(ctx, vm.Command{Argv: []string{"lsblk"}})
//
// The OpenStack is Keystone, Cinder on Ceph, Glance and Nova on this machine. The programs of this
// directory control it: up starts it, down ends it, service disturbs one of its services. The
// directory rig has their parts. The tests of this package run the plugins in it.
package openstack

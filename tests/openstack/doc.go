// Package openstack gives tests a real OpenStack: a client of its APIs that
// owes nothing to the driver, and Nova instances that boot from the images of
// package vm, in whose agent tests run what they want.
//
// The OpenStack is Keystone, Cinder on Ceph, Glance and Nova on this machine.
// The program `up` in this directory brings it up, `down` ends it; the
// directory rig holds their parts.
package openstack

// Package attached is the node side of volumes that a hypervisor plugs into
// this machine as disks, as Nova does with Cinder volumes. It finds a disk by
// the serial that the hypervisor gives it, which is the volume's id.
package attached

// Package cindercsi holds the names that the controller and the node plugin of the Cinder
// backend share: driver name, topology key and the keys of the publish context. It imports
// nothing of either, so that the node links no cloud SDK and the controller nothing of the
// node.
package cindercsi

import (
	"regexp"
	"strings"
)

// Names of the backend, of its driver and of its topology.
const (
	// Name is the backend as --backend of both programs spells it.
	Name = "cinder"
	// DriverName is the default CSI driver name: that of cinder-csi-plugin, so that its
	// PersistentVolumes keep working.
	DriverName = "cinder.csi.openstack.org"
	// TopologyKey is the topology segment that holds the availability zone, as in
	// cinder-csi-plugin.
	TopologyKey = "topology.cinder.csi.openstack.org/zone"
)

// Keys of the publish context, by which ControllerPublishVolume informs the node. All may
// be absent, as they are for volumes that cinder-csi-plugin has attached.
const (
	// ContextEncrypted is "true" if the hypervisor encrypts the volume (LUKS below the
	// guest), so that the guest's device lacks the header.
	ContextEncrypted = "encrypted"
	// ContextSize is the volume's size in bytes, in decimal.
	ContextSize = "size"
	// ContextDevicePath is the device path that Cinder expects. The controller sets it for
	// compatibility with cinder-csi-plugin; the node never uses it, because the guest
	// chooses the names of its disks.
	ContextDevicePath = "DevicePath"
)

// maxLabelLength bounds a Kubernetes label value.
const maxLabelLength = 63

// invalidLabelChars matches what a Kubernetes label value must not contain.
const invalidLabelChars = `[^-A-Za-z0-9_.]+`

// ZoneLabel returns an availability zone as the value of a topology segment, which must be
// a Kubernetes label value: each run of other characters becomes one hyphen, as in
// cinder-csi-plugin. A zone that is a label value is unchanged.
func ZoneLabel(zone string) string {
	label := strings.Trim(regexp.MustCompile(invalidLabelChars).ReplaceAllString(zone, "-"), "-_.")
	return strings.TrimRight(label[:min(len(label), maxLabelLength)], "-_.")
}

// Package cindercsi holds the names that the controller and the node plugin of
// the Cinder backend share: driver name, topology key and the keys of the publish
// context. It imports nothing of either, so that the node links no cloud SDK and the
// controller nothing of the node.
package cindercsi

import "strings"

// Names of the backend, of its driver and of its topology.
const (
	// Name is the backend as --backend of both programs spells it.
	Name = "cinder"
	// DriverName is the default CSI driver name: that of cinder-csi-plugin, so
	// that its PersistentVolumes go on.
	DriverName = "cinder.csi.openstack.org"
	// TopologyKey is the topology segment that holds the availability zone, as
	// cinder-csi-plugin names it.
	TopologyKey = "topology.cinder.csi.openstack.org/zone"
)

// Keys of the publish context: what ControllerPublishVolume tells the node.
// All may be absent, as they are for volumes that cinder-csi-plugin attached.
const (
	// ContextEncrypted is "true" when the hypervisor encrypts the volume
	// (LUKS below the guest), so that the guest's device lacks the header.
	ContextEncrypted = "encrypted"
	// ContextSize is the volume's size in bytes, in decimal.
	ContextSize = "size"
	// ContextDevicePath is the device that Cinder guesses the volume to be. It
	// is given for parity with cinder-csi-plugin and never used: a guest names
	// its disks as it likes.
	ContextDevicePath = "DevicePath"
)

// maxLabel is the length of a Kubernetes label value.
const maxLabel = 63

// ZoneLabel returns an availability zone as the value of a topology segment,
// which must be a Kubernetes label value: each run of other characters becomes
// one hyphen, as in cinder-csi-plugin. A zone without such characters is unchanged.
func ZoneLabel(zone string) string {
	var b strings.Builder
	replaced := false
	for _, r := range zone {
		good := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
		switch {
		case good:
			b.WriteRune(r)
		case !replaced:
			b.WriteByte('-')
		}
		replaced = !good
	}
	label := strings.Trim(b.String(), "-_.")
	return strings.TrimRight(label[:min(len(label), maxLabel)], "-_.")
}

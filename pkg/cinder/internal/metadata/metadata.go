// Package metadata knows the metadata that this driver gives to volumes, snapshots and backups, and
// by which it recognizes its own objects. It makes no requests. The keys of cinder-csi-plugin stay
// as they are, so that the driver recognizes that driver's volumes.
package metadata

import (
	"maps"
	"slices"
	"strings"
)

// Prefixes of keys.
const (
	reservedPrefix = "cinder.csi.openstack.org/" // of cinder-csi-plugin
	ownPrefix      = "growvol.io/"
	// SidecarPrefix marks parameters that the CSI sidecars add: external-provisioner passes
	// the names of the claim in them (--extra-create-metadata).
	SidecarPrefix = "csi.storage.k8s.io/"
)

// Keys.
const (
	Cluster = reservedPrefix + "cluster" // the cluster that made the object
	// Encrypted is "true" for volumes that the node encrypts.
	Encrypted = ownPrefix + "encrypted"
	// BackupOf marks a snapshot that exists only so that a backup can be made from it. Its
	// value is the name of the backup.
	BackupOf = ownPrefix + "backup"
	// Unanswered marks a backup whose id no call has returned yet.
	Unanswered = ownPrefix + "unanswered"

	PersistentVolume = SidecarPrefix + "pv/name" // also the name of the volume
	Claim            = SidecarPrefix + "pvc/name"
	ClaimNamespace   = SidecarPrefix + "pvc/namespace"

	// RestoredFrom is Cinder's: the backup that a volume was restored from.
	RestoredFrom = "src_backup_id"
	// Cinder shows its own values for these two, whatever a client has set.
	readOnly     = "readonly"
	attachedMode = "attached_mode"
)

// IsOfCluster reports whether metadata are those of an object that the cluster has made.
func IsOfCluster(metadata map[string]string, clusterID string) bool {
	cluster, ok := metadata[Cluster]
	return ok && cluster == clusterID
}

// Own adds the cluster, and the parameters of the given keys that have a value, to metadata,
// which may be nil. It returns the map.
func Own(metadata map[string]string, clusterID string, parameters map[string]string, keys ...string) map[string]string {
	if metadata == nil {
		metadata = make(map[string]string)
	}
	metadata[Cluster] = clusterID
	for _, key := range keys {
		if value := parameters[key]; value != "" {
			metadata[key] = value
		}
	}
	return metadata
}

// IsReserved reports whether the driver recognizes volumes by the key, or Cinder shows its own
// value for it. Case does not matter, because databases compare keys without it.
func IsReserved(key string) bool {
	key = strings.ToLower(key)
	for _, prefix := range []string{reservedPrefix, ownPrefix, SidecarPrefix} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return slices.Contains([]string{RestoredFrom, readOnly, attachedMode}, key)
}

// Missing returns the keys of want that metadata lack or have with another value.
func Missing(metadata, want map[string]string) []string {
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, found := metadata[key]; !found || value != want[key] {
			keys = append(keys, key)
		}
	}
	return keys
}

// Description is the description of volumes, snapshots and backups. It is that of
// cinder-csi-plugin, by which people find them.
const Description = "Created by OpenStack Cinder CSI driver"

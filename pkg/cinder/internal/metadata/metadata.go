// Package metadata has the metadata that this driver sets on volumes, snapshots and backups and by
// which it recognizes its own objects. Keys that cinder-csi-plugin also sets are the same as there,
// so that this driver recognizes the volumes of that driver. The package makes no requests.
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
	// SidecarPrefix is the prefix of parameters that the CSI sidecars add, such as the names of the
	// claim (external-provisioner with --extra-create-metadata).
	SidecarPrefix = "csi.storage.k8s.io/"
)

// Keys.
const (
	Cluster = reservedPrefix + "cluster" // id of the cluster that created the object
	// Encrypted is "true" for volumes that the node encrypts.
	Encrypted = ownPrefix + "encrypted"
	// BackupOf marks a helper snapshot, which exists only to make a backup from it. Its value is the
	// name of the backup.
	BackupOf = ownPrefix + "backup"
	// Unanswered marks a backup whose id no call has returned yet.
	Unanswered = ownPrefix + "unanswered"

	PersistentVolume = SidecarPrefix + "pv/name" // also the name of the volume
	Claim            = SidecarPrefix + "pvc/name"
	ClaimNamespace   = SidecarPrefix + "pvc/namespace"

	// RestoredFrom is a key of Cinder: the id of the backup that a volume was restored from.
	RestoredFrom = "src_backup_id"
	// For these two keys Cinder shows its own values, even if a client has set others.
	readOnly     = "readonly"
	attachedMode = "attached_mode"
)

// IsOfCluster reports whether metadata belong to an object that the cluster created.
func IsOfCluster(metadata map[string]string, clusterID string) bool {
	cluster, ok := metadata[Cluster]
	return ok && cluster == clusterID
}

// Own adds the cluster, and those parameters of the given keys that are not empty, to metadata, and
// returns the map. metadata may be nil.
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

// IsReserved reports whether users must not set the key, because this driver or Cinder sets it. It
// ignores case, as databases do when they compare keys.
func IsReserved(key string) bool {
	key = strings.ToLower(key)
	for _, prefix := range []string{reservedPrefix, ownPrefix, SidecarPrefix} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return slices.Contains([]string{RestoredFrom, readOnly, attachedMode}, key)
}

// Missing returns the keys of want that metadata lacks or has with another value, sorted.
func Missing(metadata, want map[string]string) []string {
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, found := metadata[key]; !found || value != want[key] {
			keys = append(keys, key)
		}
	}
	return keys
}

// Description is the description of volumes, snapshots and backups. It is the same as that of
// cinder-csi-plugin, because users search for it.
const Description = "Created by OpenStack Cinder CSI driver"

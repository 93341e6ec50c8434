package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, id string) (volume.Volume, error) {
	_, v, err := b.read(ctx, id)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "read volume", id)
	}
	return b.toVolume(v), nil
}

// toVolume converts a volume of Cinder to a volume.Volume. It sets no VolumeContext, because Cinder
// stores none and PersistentVolumes of cinder-csi-plugin have other keys, which must stay valid. It
// sets no Topology if zones are ignored: then every node can reach the volume.
func (b *Backend) toVolume(v cloud.Volume) volume.Volume {
	out := volume.Volume{
		ID: v.ID, Name: v.Name, Size: cloud.SizeOf(v), Source: sourceOf(v), AccessModes: singleNodeModes(),
		Nodes: state.Servers(v), Encrypted: isEncrypted(v),
	}
	if v.AvailabilityZone != "" && !b.ignoresZones() {
		out.Topology = []volume.Topology{{cindercsi.TopologyKey: cindercsi.ZoneLabel(v.AvailabilityZone)}}
	}
	if v.Multiattach {
		out.AccessModes = append(out.AccessModes, multiNodeModes()...)
	}
	return out
}

// isEncrypted reports whether the node encrypts a volume, according to the metadata of the volume.
func isEncrypted(v cloud.Volume) bool { return v.Metadata[metadata.Encrypted] == "true" }

// sourceOf returns the source of a volume. For CSI a backup is a snapshot too.
func sourceOf(v cloud.Volume) volume.Source {
	switch {
	case v.SnapshotID != "":
		return volume.Source{SnapshotID: v.SnapshotID}
	case cloud.BackupIDOf(v) != "":
		return volume.Source{SnapshotID: cloud.BackupIDOf(v)}
	}
	return volume.Source{VolumeID: v.SourceVolID}
}

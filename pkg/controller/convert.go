package controller

import (
	"maps"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// toCSI converts a volume that the backend has read. This file converts between the
// messages of CSI and the types of package volume.
func (s *Server) toCSI(v volume.Volume) *csi.Volume {
	out := &csi.Volume{
		VolumeId: v.ID, CapacityBytes: v.Size.Bytes(), VolumeContext: volumeContext(v),
		ContentSource: sourceToCSI(v.Source),
	}
	if s.backend.HasTopology() {
		for _, t := range v.Topology {
			out.AccessibleTopology = append(out.AccessibleTopology, &csi.Topology{Segments: t})
		}
	}
	return out
}

// volumeContext returns the volume context for the node: the backend's entries, and
// volume.EncryptedKey if the node encrypts the volume.
func volumeContext(v volume.Volume) map[string]string {
	if !v.Encrypted {
		return v.VolumeContext
	}
	context := maps.Clone(v.VolumeContext)
	if context == nil {
		context = make(map[string]string, 1)
	}
	context[volume.EncryptedKey] = encryptedTrue
	return context
}

func sourceToCSI(source volume.Source) *csi.VolumeContentSource {
	switch {
	case source.SnapshotID != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: source.SnapshotID},
		}}
	case source.VolumeID != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source.VolumeID},
		}}
	}
	return nil
}

func parseRange(r *csi.CapacityRange) volume.Range {
	return volume.Range{Required: volume.Size(r.GetRequiredBytes()), Limit: volume.Size(r.GetLimitBytes())}
}

func parseTopologies(topologies []*csi.Topology) []volume.Topology {
	var out []volume.Topology
	for _, t := range topologies {
		out = append(out, t.GetSegments())
	}
	return out
}

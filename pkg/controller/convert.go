package controller

import (
	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// toCSI renders a volume as the backend read it.
func (s *Server) toCSI(v volume.Volume) *csi.Volume {
	out := &csi.Volume{
		VolumeId: v.ID, CapacityBytes: v.Size.Bytes(), VolumeContext: v.Context, ContentSource: sourceToCSI(v.Source),
	}
	if s.topology != nil {
		for _, t := range v.Topology {
			out.AccessibleTopology = append(out.AccessibleTopology, &csi.Topology{Segments: t})
		}
	}
	return out
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

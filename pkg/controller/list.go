package controller

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/golang/protobuf/ptypes/wrappers"

	"github.com/growvol/growvol/pkg/volume"
)

// ListVolumes returns one page of the volumes.
func (s *Server) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if s.lister == nil {
		return nil, unsupported("list volumes")
	}
	page, err := parsePage(req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	volumes, next, err := s.lister.ListVolumes(ctx, page)
	if err != nil {
		return nil, volume.Wrap(err, "list volumes", "")
	}
	resp := &csi.ListVolumesResponse{NextToken: next}
	for _, v := range volumes {
		entry := &csi.ListVolumesResponse_Entry{Volume: s.toCSI(v)}
		if s.attacher != nil {
			entry.Status = &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: v.Nodes}
		}
		resp.Entries = append(resp.Entries, entry)
	}
	return resp, nil
}

// GetCapacity tells how much room is left. There is none for volumes that are
// to be used in a way that the backend does not allow.
func (s *Server) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if s.capacity == nil {
		return nil, unsupported("tell its capacity")
	}
	class, err := parseClass(req.GetParameters())
	if err != nil {
		return nil, err
	}
	ask := volume.CapacityRequest{Parameters: class.backend, Topology: req.GetAccessibleTopology().GetSegments()}
	if req.GetAccessibleTopology() != nil && !s.hasTopology {
		return nil, volume.Errorf(volume.KindInvalid, "accessible_topology is given, but volumes of this backend can be reached from everywhere")
	}
	if len(req.GetVolumeCapabilities()) > 0 {
		if ask.Accesses, err = parseAccesses(req.GetVolumeCapabilities()); err != nil {
			return nil, err
		}
		if err := errors.Join(allowed(s.backend.AccessModes(), ask.Accesses...), preserving(ask.Accesses)); err != nil {
			return &csi.GetCapacityResponse{}, nil //nolint:nilerr // no room is an answer, not an error
		}
	}
	c, err := s.capacity.Capacity(ctx, ask)
	if err != nil {
		return nil, volume.Wrap(err, "read capacity", "")
	}
	least := max(c.Min, minimumOf(ask.Accesses, class.backend, class.encrypted).size)
	return &csi.GetCapacityResponse{
		// A pool that is overcommitted can have less than nothing.
		AvailableCapacity: max(c.Available, 0).Bytes(),
		MaximumVolumeSize: optionalSize(c.Max), MinimumVolumeSize: optionalSize(least),
	}, nil
}

func optionalSize(size volume.Size) *wrappers.Int64Value {
	if size <= 0 {
		return nil
	}
	return &wrappers.Int64Value{Value: size.Bytes()}
}

// parsePage reads what both listings share.
func parsePage(token string, entries int32) (volume.Page, error) {
	if entries < 0 {
		return volume.Page{}, volume.Errorf(volume.KindInvalid, "max_entries is %d, but must not be negative", entries)
	}
	return volume.Page{Token: token, Max: int(entries)}, nil
}

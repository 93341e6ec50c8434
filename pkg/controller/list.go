package controller

import (
	"cmp"
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/golang/protobuf/ptypes/wrappers"

	"github.com/growvol/growvol/pkg/volume"
)

// ListVolumes returns one page of the volumes.
func (s *Server) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	if s.lister == nil {
		return nil, unsupportedError("list volumes")
	}
	page, err := parsePage(req)
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

// GetCapacity returns the free space of the backend; zero for volumes with an access that
// the backend does not allow or that would destroy a filesystem.
func (s *Server) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	if s.capacity == nil {
		return nil, unsupportedError("report its capacity")
	}
	class, err := parseClass(req.GetParameters())
	if err == nil {
		err = s.checkTopology("accessible_topology", req.GetAccessibleTopology() != nil)
	}
	if err != nil {
		return nil, err
	}
	capacityReq := volume.CapacityRequest{Parameters: class.backend, Topology: req.GetAccessibleTopology().GetSegments()}
	if len(req.GetVolumeCapabilities()) > 0 {
		accesses, err := parseAccesses(req.GetVolumeCapabilities())
		if err != nil {
			return nil, err
		}
		if cmp.Or(checkAccessModes(s.backend.AccessModes(), accesses...), checkNotDestructive(accesses)) != nil {
			return &csi.GetCapacityResponse{}, nil //nolint:nilerr // no space is an answer, not an error
		}
		capacityReq.Accesses = accesses
	}
	c, err := s.capacity.Capacity(ctx, capacityReq)
	if err != nil {
		return nil, volume.Wrap(err, "read capacity", "")
	}
	minSize := max(c.MinVolumeSize, minimumFor(capacityReq.Accesses, class.backend, class.encrypted).size)
	return &csi.GetCapacityResponse{
		AvailableCapacity: max(c.Available, 0).Bytes(), // negative in a pool that is overcommitted
		MaximumVolumeSize: optionalSize(c.MaxVolumeSize), MinimumVolumeSize: optionalSize(minSize),
	}, nil
}

func optionalSize(size volume.Size) *wrappers.Int64Value {
	if size <= 0 {
		return nil
	}
	return &wrappers.Int64Value{Value: size.Bytes()}
}

// parsePage converts the page of a listing's request.
func parsePage(req interface {
	GetStartingToken() string
	GetMaxEntries() int32
},
) (volume.Page, error) {
	if n := req.GetMaxEntries(); n < 0 {
		return volume.Page{}, volume.Errorf(volume.KindInvalid, "max_entries is %d, but must not be negative", n)
	}
	return volume.Page{Token: req.GetStartingToken(), Max: int(req.GetMaxEntries())}, nil
}

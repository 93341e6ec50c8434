package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/health"
	"github.com/growvol/growvol/pkg/volume"
)

// ControllerGetVolumeHealth returns what is wrong with a volume. The RPC is alpha in CSI
// v1.13.
func (s *Server) ControllerGetVolumeHealth(
	ctx context.Context, req *csi.ControllerGetVolumeHealthRequest,
) (*csi.ControllerGetVolumeHealthResponse, error) {
	if s.health == nil {
		return nil, unsupportedError("report the health of volumes")
	}
	id := req.GetVolumeId()
	if err := checkRequired("volume_id", id); err != nil {
		return nil, err
	}
	conditions, err := s.health.Health(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "read the health of volume", id)
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health.ToCSI(id, conditions)}, nil
}

// ControllerListVolumeHealth returns one page of the impaired volumes. A page may be empty
// and still have a next page: backends read pages of volumes and leave out those without a
// condition. The RPC is alpha in CSI v1.13.
func (s *Server) ControllerListVolumeHealth(
	ctx context.Context, req *csi.ControllerListVolumeHealthRequest,
) (*csi.ControllerListVolumeHealthResponse, error) {
	if s.healthLister == nil {
		return nil, unsupportedError("list the health of volumes")
	}
	page, err := parsePage(req)
	if err != nil {
		return nil, err
	}
	impaired, next, err := s.healthLister.ListHealth(ctx, page)
	if err != nil {
		return nil, volume.Wrap(err, "list the health of volumes", "")
	}
	if page.Max > 0 && len(impaired) > page.Max {
		return nil, volume.Errorf(volume.KindInternal,
			"the backend returned the health of %d volumes, more than the %d requested",
			len(impaired), page.Max)
	}
	resp := &csi.ControllerListVolumeHealthResponse{NextToken: next}
	for _, v := range impaired {
		if len(v.Conditions) > 0 {
			resp.Entries = append(resp.Entries, health.ToCSI(v.ID, v.Conditions))
		}
	}
	return resp, nil
}

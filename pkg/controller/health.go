package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// ControllerGetVolumeHealth tells what is wrong with a volume. The call is
// alpha in CSI v1.13.
func (s *Server) ControllerGetVolumeHealth(ctx context.Context, req *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	if s.health == nil {
		return nil, unsupported("tell the health of volumes")
	}
	id := req.GetVolumeId()
	if err := required("volume_id", id); err != nil {
		return nil, err
	}
	conditions, err := s.health.Health(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "read the health of volume", id)
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: healthToCSI(id, conditions)}, nil
}

// ControllerListVolumeHealth returns one page of the volumes that something is
// wrong with. A page may be empty and still name the next one: backends read
// pages of volumes and leave out those that are sound. The call is alpha in CSI
// v1.13.
func (s *Server) ControllerListVolumeHealth(ctx context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	if s.healthLister == nil {
		return nil, unsupported("list the health of volumes")
	}
	page, err := parsePage(req.GetStartingToken(), req.GetMaxEntries())
	if err != nil {
		return nil, err
	}
	impaired, next, err := s.healthLister.ListHealth(ctx, page)
	if err != nil {
		return nil, volume.Wrap(err, "list the health of volumes", "")
	}
	if page.Max > 0 && len(impaired) > page.Max {
		return nil, volume.Errorf(volume.Internal, "the backend returned the health of %d volumes, more than the %d asked for",
			len(impaired), page.Max)
	}
	resp := &csi.ControllerListVolumeHealthResponse{NextToken: next}
	for _, v := range impaired {
		if len(v.Conditions) > 0 {
			resp.Entries = append(resp.Entries, healthToCSI(v.ID, v.Conditions))
		}
	}
	return resp, nil
}

// healthToCSI renders the conditions of a volume.
func healthToCSI(id string, conditions []volume.Condition) *csi.VolumeHealth {
	health := &csi.VolumeHealth{VolumeId: id}
	for _, c := range conditions {
		health.HealthStatuses = append(health.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: impairmentToCSI(c.Impairment), Reason: c.Reason, Message: c.Message,
		})
	}
	return health
}

func impairmentToCSI(i volume.Impairment) csi.VolumeHealthErrorType {
	switch i {
	case volume.Degraded:
		return csi.VolumeHealthErrorType_DEGRADED
	case volume.Inaccessible:
		return csi.VolumeHealthErrorType_INACCESSIBLE
	case volume.DataLoss:
		return csi.VolumeHealthErrorType_DATA_LOSS
	}
	return csi.VolumeHealthErrorType_UNKNOWN_VOLUME_HEALTH_TYPE
}

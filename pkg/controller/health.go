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
	health := &csi.VolumeHealth{VolumeId: id}
	for _, c := range conditions {
		health.HealthStatuses = append(health.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: impairmentToCSI(c.Impairment), Reason: c.Reason, Message: c.Message,
		})
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health}, nil
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

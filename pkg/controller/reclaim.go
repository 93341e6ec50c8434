package controller

import (
	"context"

	"github.com/csi-addons/spec/lib/go/reclaimspace"

	"github.com/growvol/growvol/pkg/volume"
)

// ControllerReclaimSpace deallocates the blocks that hold zeros of a volume that is not in use
// (csi-addons, service ReclaimSpaceController). It answers with the usage before and after, or
// without usages for a volume in use, which it leaves alone: csi-addons makes this call for each
// ReclaimSpaceJob, also right after the node's.
//
// It does not take the volume's lock: the backend ends the work when another operation begins.
func (s *Server) ControllerReclaimSpace(
	ctx context.Context, req *reclaimspace.ControllerReclaimSpaceRequest,
) (*reclaimspace.ControllerReclaimSpaceResponse, error) {
	id := req.GetVolumeId()
	if err := checkRequired("volume_id", id); err != nil {
		return nil, err
	}
	if s.reclaimer == nil {
		return nil, unsupportedError("reclaim the space of volumes that are not in use")
	}
	unlock, err := s.locks.Lock(ctx, reclaimKey(id))
	if err != nil {
		return nil, err
	}
	defer unlock()
	reclaimed, err := s.reclaimer.ReclaimSpace(ctx, id)
	switch {
	case err != nil:
		return nil, volume.Wrap(err, "reclaim space of volume", id)
	case reclaimed.IsInUse:
		return new(reclaimspace.ControllerReclaimSpaceResponse), nil
	}
	s.log.InfoContext(ctx, "reclaimed space", "volume", id,
		"usage_before", reclaimed.Before.String(), "usage_after", reclaimed.After.String())
	return &reclaimspace.ControllerReclaimSpaceResponse{
		PreUsage:  &reclaimspace.StorageConsumption{UsageBytes: reclaimed.Before.Bytes()},
		PostUsage: &reclaimspace.StorageConsumption{UsageBytes: reclaimed.After.Bytes()},
	}, nil
}

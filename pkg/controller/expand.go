package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// ControllerExpandVolume expands a volume to at least the required size, online if it is
// in use, and returns the size that the backend has read back.
//
// A call for a size that the volume already has succeeds with the present size; so does an
// older call for a smaller size, which external-resizer makes after a restart. Calls for
// one volume wait for each other, so that calls for the same size share one expansion.
//
// node_expansion_required is always true. Only the node's call proves that the device has
// grown, also for block volumes; and if an earlier call ended before the node's call, the
// filesystem would otherwise never grow.
func (s *Server) ControllerExpandVolume(
	ctx context.Context, req *csi.ControllerExpandVolumeRequest,
) (*csi.ControllerExpandVolumeResponse, error) {
	v, err := s.expand(ctx, req)
	if err != nil {
		return nil, volume.Wrap(err, "expand volume", req.GetVolumeId())
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: v.Size.Bytes(), NodeExpansionRequired: true}, nil
}

func (s *Server) expand(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (volume.Volume, error) {
	id := req.GetVolumeId()
	target, err := s.parseExpand(req)
	if err != nil {
		return volume.Volume{}, err
	}
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return volume.Volume{}, err
	}
	defer unlock()
	v, err := s.backend.Expand(ctx, id, target)
	if err == nil {
		err = checkExpanded(v, id, target, parseRange(req.GetCapacityRange()).Limit)
	}
	if err != nil {
		return volume.Volume{}, err
	}
	s.log.InfoContext(ctx, "volume expanded", "volume", id, "target", target.String(), "size", v.Size.String())
	return v, nil
}

// parseExpand checks the request and returns the target size.
func (s *Server) parseExpand(req *csi.ControllerExpandVolumeRequest) (target volume.Size, err error) {
	if err := checkRequired("volume_id", req.GetVolumeId()); err != nil {
		return 0, err
	}
	if req.GetVolumeCapability() != nil {
		access, err := capability.Access(req.GetVolumeCapability())
		if err == nil {
			err = checkAccessModes(s.backend.AccessModes(), access)
		}
		if err != nil {
			return 0, err
		}
	}
	r := parseRange(req.GetCapacityRange())
	if r.Required == 0 {
		return 0, volume.Errorf(volume.KindInvalid, "required_bytes of capacity_range is missing in the request")
	}
	return r.Resolve(s.backend.Limits())
}

// checkExpanded returns an error unless the backend returned the volume of this id with at
// least the target size and at most the limit (0: none). The backend has promised that;
// but external-resizer trusts the answer and shows it to the user, so an error of a backend
// would become a PVC with a false size.
func checkExpanded(v volume.Volume, id string, target, limit volume.Size) error {
	switch {
	case v.ID != id:
		return volume.Errorf(volume.KindInternal, "the backend returned volume %q instead", v.ID)
	case v.Size < target:
		return volume.Errorf(volume.KindInternal,
			"the backend reported success, but the volume has %s, less than the target %s",
			v.Size, target).
			WithRemedy("no action needed: Kubernetes retries this automatically; " +
				"if this lasts, compare the volume's size in the storage system and report a bug of the driver")
	case limit > 0 && v.Size > limit:
		return volume.Errorf(volume.KindOutOfRange,
			"the volume already has %s, above the limit %s, and volumes cannot shrink",
			v.Size, limit).
			WithRemedy("set a limit of at least " + v.Size.String())
	}
	return nil
}

package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// ControllerExpandVolume expands a volume to at least the required size, online if it is
// in use, and returns the size that the backend has read back.
//
// A call for a size that the volume already has succeeds with the present size; so does a
// repeated call for a smaller size, as external-resizer makes it after a restart. Calls for
// one volume are serialized, so that calls for the same size share one expansion.
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
	s.log.InfoContext(ctx, "the volume has the requested size", "volume", id, "target", target.String(), "size",
		v.Size.String())
	return v, nil
}

// parseExpand checks the request and returns the target size.
func (s *Server) parseExpand(req *csi.ControllerExpandVolumeRequest) (target volume.Size, err error) {
	if err := checkRequired("volume_id", req.GetVolumeId()); err != nil {
		return 0, err
	}
	if req.GetVolumeCapability() != nil {
		access, err := capability.ParseAccess(req.GetVolumeCapability())
		if err == nil {
			err = checkAccessModes(s.backend.AccessModes(), access)
		}
		if err != nil {
			return 0, err
		}
	}
	r := parseRange(req.GetCapacityRange())
	if r.Required == 0 {
		return 0, volume.Errorf(volume.KindInvalid, "required_bytes of capacity_range is missing from the request")
	}
	return r.Resolve(s.backend.Limits())
}

// checkExpanded returns an error unless v is the volume id with at least the target size and
// at most the limit (0: none). Backend.Expand guarantees the id and the target, and does not
// know the limit. The check is repeated here because external-resizer shows the size in the
// claim: a bug of a backend would show the user a wrong size.
func checkExpanded(v volume.Volume, id string, target, limit volume.Size) error {
	switch {
	case v.ID != id:
		return volume.Errorf(volume.KindInternal, "the backend returned volume %q for a request about volume %q", v.ID, id).
			WithRemedy("report this as a bug of the driver")
	case v.Size < target:
		return volume.Errorf(volume.KindInternal,
			"the backend reported success, but the volume has %s, less than the target %s",
			v.Size, target).
			WithRemedy("Kubernetes retries this automatically; if the error persists, " +
				"compare the volume's size in the storage system and report a bug of the driver")
	case limit > 0 && v.Size > limit:
		return volume.Errorf(volume.KindOutOfRange,
			"the volume has %s, above the requested limit %s; volumes cannot shrink", v.Size, limit).
			WithRemedy(fmt.Sprintf("set resources.limits.storage of the claim to at least %s, or remove it", v.Size))
	}
	return nil
}

package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// ControllerExpandVolume drives a volume to at least the required size, online
// if it is in use, and returns the size that the backend read back.
//
// It converges: a call for a size that the volume has already, also an older
// and smaller one after a restart of external-resizer, succeeds with the
// present size. Calls for one volume wait for each other, so that equal ones
// join.
//
// node_expansion_required is always true. The node's call is the only proof
// that the device has grown, for block volumes too; and when an earlier call
// died before it, the filesystem would never grow otherwise.
func (s *Server) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	id := req.GetVolumeId()
	target, err := s.expandTarget(req)
	if err != nil {
		return nil, volume.Wrap(err, "expand volume", id)
	}
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return nil, volume.Wrap(err, "expand volume", id)
	}
	defer unlock()
	v, err := s.backend.Expand(ctx, id, target)
	if err == nil {
		err = checkExpanded(v, id, target, parseRange(req.GetCapacityRange()).Limit)
	}
	if err != nil {
		return nil, volume.Wrap(err, "expand volume", id)
	}
	s.log.InfoContext(ctx, "volume expanded", "volume", id, "target", target.String(), "size", v.Size.String())
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: v.Size.Bytes(), NodeExpansionRequired: true}, nil
}

// expandTarget validates the request and returns the size to reach.
func (s *Server) expandTarget(req *csi.ControllerExpandVolumeRequest) (volume.Size, error) {
	if err := required("volume_id", req.GetVolumeId()); err != nil {
		return 0, err
	}
	if req.GetVolumeCapability() != nil {
		access, err := capability.Access(req.GetVolumeCapability())
		if err != nil {
			return 0, err
		}
		if err := allowed(s.backend.AccessModes(), access); err != nil {
			return 0, err
		}
	}
	r := parseRange(req.GetCapacityRange())
	if r.Required == 0 {
		return 0, volume.Errorf(volume.KindInvalid, "required_bytes of capacity_range is missing in the request")
	}
	return r.Resolve(s.backend.Limits())
}

// checkExpanded lets only a volume through that has the size. The backend
// has promised it already; external-resizer takes our word for it and tells
// the user, so a slip in any backend would become a PVC that lies.
func checkExpanded(v volume.Volume, id string, target, limit volume.Size) error {
	switch {
	case v.ID != id:
		return volume.Errorf(volume.KindInternal, "the backend returned volume %q instead", v.ID)
	case v.Size < target:
		return volume.Errorf(volume.KindInternal, "the backend reported success, but the volume has %s, less than the target %s", v.Size, target).
			WithRemedy("it will be retried; if this lasts, compare the volume's size in the storage system and report a bug of the driver")
	case limit > 0 && v.Size > limit:
		return volume.Errorf(volume.KindOutOfRange, "the volume has %s already, above the limit %s, and volumes cannot shrink", v.Size, limit).
			WithRemedy("ask for a limit of at least " + v.Size.String())
	}
	return nil
}

package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// DeleteVolume deletes a volume. It succeeds for a volume that does not exist.
func (s *Server) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id := req.GetVolumeId()
	if err := checkRequired("volume_id", id); err != nil {
		return nil, err
	}
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.backend.Delete(ctx, id); err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return nil, volume.Wrap(err, "delete volume", id)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ControllerGetVolume reads a volume.
func (s *Server) ControllerGetVolume(
	ctx context.Context, req *csi.ControllerGetVolumeRequest,
) (*csi.ControllerGetVolumeResponse, error) {
	v, err := s.get(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	status := new(csi.ControllerGetVolumeResponse_VolumeStatus)
	if s.attacher != nil {
		status.PublishedNodeIds = v.Nodes
	}
	return &csi.ControllerGetVolumeResponse{Volume: s.toCSI(v), Status: status}, nil
}

// ValidateVolumeCapabilities confirms that a volume can be used with all of the requested
// accesses. It does not confirm parameters: no backend reads them after the creation, and
// the fields are OPTIONAL.
func (s *Server) ValidateVolumeCapabilities(
	ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := checkRequired("volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	accesses, err := parseAccesses(req.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	v, err := s.get(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := volume.Join(
		checkAccessModes(s.accessModes(v), accesses...),
		checkNotDestructive(accesses),
		checkEncryptedAccess(v.Encrypted, accesses),
		checkVolumeContext(volumeContext(v), req.GetVolumeContext()),
	); err != nil {
		refusal := &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}
		return refusal, nil //nolint:nilerr // "not confirmed" is an answer
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: req.GetVolumeContext(), VolumeCapabilities: req.GetVolumeCapabilities(),
	}}, nil
}

// checkVolumeContext returns an error of kind Invalid if got, the context of the request,
// lacks a key of the volume's context or has another value for it. It ignores other keys of
// got, which external-provisioner adds, and an empty got.
func checkVolumeContext(want, got map[string]string) error {
	if len(got) == 0 {
		return nil
	}
	for key, value := range want {
		if got[key] != value {
			return volume.Errorf(volume.KindInvalid, "volume_context has %s=%q, but the volume has %q", key, got[key], value)
		}
	}
	return nil
}

// ControllerModifyVolume changes mutable parameters of a volume.
func (s *Server) ControllerModifyVolume(
	ctx context.Context, req *csi.ControllerModifyVolumeRequest,
) (*csi.ControllerModifyVolumeResponse, error) {
	if s.modifier == nil {
		return nil, unsupportedError("modify volumes")
	}
	id := req.GetVolumeId()
	if err := checkRequired("volume_id", id); err != nil {
		return nil, err
	}
	if len(req.GetMutableParameters()) == 0 {
		return nil, volume.Errorf(volume.KindInvalid, "mutable_parameters are missing from the request")
	}
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.modifier.Modify(ctx, id, req.GetMutableParameters()); err != nil {
		return nil, volume.Wrap(err, "modify volume", id)
	}
	s.log.InfoContext(ctx, "volume modified", "volume", id)
	return &csi.ControllerModifyVolumeResponse{}, nil
}

// get reads a volume. Error kind Invalid: id is empty.
func (s *Server) get(ctx context.Context, id string) (volume.Volume, error) {
	if err := checkRequired("volume_id", id); err != nil {
		return volume.Volume{}, err
	}
	v, err := s.backend.Get(ctx, id)
	return v, volume.Wrap(err, "read volume", id)
}

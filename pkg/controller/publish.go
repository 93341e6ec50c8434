package controller

import (
	"cmp"
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/capability"
	"github.com/growvol/growvol/pkg/volume"
)

// ControllerPublishVolume attaches a volume to a node.
func (s *Server) ControllerPublishVolume(
	ctx context.Context, req *csi.ControllerPublishVolumeRequest,
) (*csi.ControllerPublishVolumeResponse, error) {
	if s.attacher == nil {
		return nil, unsupportedError("attach volumes: its volumes need no attachment")
	}
	attach, err := s.parseAttach(req)
	if err != nil {
		return nil, err
	}
	unlock, err := s.locks.Lock(ctx, attach.VolumeID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	published, err := s.attacher.Attach(ctx, attach)
	if err != nil {
		return nil, volume.Wrap(err, "attach volume", attach.VolumeID)
	}
	s.log.InfoContext(ctx, "volume attached", "volume", attach.VolumeID, "node", attach.Node)
	return &csi.ControllerPublishVolumeResponse{PublishContext: published}, nil
}

// parseAttach checks the request and converts it.
func (s *Server) parseAttach(req *csi.ControllerPublishVolumeRequest) (volume.AttachRequest, error) {
	access, accessErr := capability.ParseAccess(req.GetVolumeCapability())
	if err := cmp.Or(
		checkRequired("volume_id", req.GetVolumeId()),
		checkRequired("node_id", req.GetNodeId()),
		accessErr,
		checkAccessModes(s.backend.AccessModes(), access),
	); err != nil {
		return volume.AttachRequest{}, err
	}
	if req.GetReadonly() {
		// No component enforces the field; see capabilities.
		return volume.AttachRequest{}, volume.Errorf(volume.KindInvalid,
			"readonly is set, but this driver lacks the capability PUBLISH_READONLY")
	}
	return volume.AttachRequest{
		VolumeID: req.GetVolumeId(), Node: req.GetNodeId(), Access: access, ReadOnly: access.Mode.IsReadOnly(),
	}, nil
}

// ControllerUnpublishVolume detaches a volume from a node, or from all nodes if the request
// names none. It succeeds for a volume or node that does not exist: nothing is attached there.
func (s *Server) ControllerUnpublishVolume(
	ctx context.Context, req *csi.ControllerUnpublishVolumeRequest,
) (*csi.ControllerUnpublishVolumeResponse, error) {
	if s.attacher == nil {
		return nil, unsupportedError("detach volumes: its volumes need no attachment")
	}
	id := req.GetVolumeId()
	if err := checkRequired("volume_id", id); err != nil {
		return nil, err
	}
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.attacher.Detach(ctx, id, req.GetNodeId()); err != nil && !volume.IsKind(err, volume.KindNotFound) {
		return nil, volume.Wrap(err, "detach volume", id)
	}
	s.log.InfoContext(ctx, "volume detached", "volume", id, "node", req.GetNodeId())
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

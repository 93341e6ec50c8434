package controller

import (
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// ControllerGetCapabilities returns the RPCs that the backend supports.
func (s *Server) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := new(csi.ControllerGetCapabilitiesResponse)
	for _, t := range s.capabilities() {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}},
		})
	}
	return resp, nil
}

// capabilities derives the capabilities from the interfaces of the backend.
//
// PUBLISH_READONLY is not among them: volume.Attacher does not require the storage system
// to enforce read-only, and the node mounts read-only without it.
func (s *Server) capabilities() []csi.ControllerServiceCapability_RPC_Type {
	capabilities := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
	}
	for _, optional := range []struct {
		isSupported bool
		capability  csi.ControllerServiceCapability_RPC_Type
	}{
		{s.attacher != nil, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME},
		{s.lister != nil, csi.ControllerServiceCapability_RPC_LIST_VOLUMES},
		{s.lister != nil && s.attacher != nil, csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES},
		{s.capacity != nil, csi.ControllerServiceCapability_RPC_GET_CAPACITY},
		{s.snapshotter != nil, csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT},
		{s.snapshotter != nil, csi.ControllerServiceCapability_RPC_GET_SNAPSHOT},
		{s.snapshotLister != nil, csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS},
		{s.cloner != nil, csi.ControllerServiceCapability_RPC_CLONE_VOLUME},
		{s.modifier != nil, csi.ControllerServiceCapability_RPC_MODIFY_VOLUME},
		{s.health != nil, csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH},
		// A VolumeHealthLister is also a VolumeHealthReporter: CSI allows the list only with both.
		{s.healthLister != nil, csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH},
		{s.hasSingleNodeModes(), csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER},
	} {
		if optional.isSupported {
			capabilities = append(capabilities, optional.capability)
		}
	}
	return capabilities
}

// hasSingleNodeModes reports whether the backend knows the modes behind ReadWriteOncePod of
// Kubernetes.
func (s *Server) hasSingleNodeModes() bool {
	return slices.ContainsFunc(s.backend.AccessModes(), func(m volume.AccessMode) bool {
		return m == volume.AccessSingleNodeSingleWriter || m == volume.AccessSingleNodeMultiWriter
	})
}

// PluginServices returns the services besides the Controller that the backend supports, for
// csiserver.NewIdentity.
func (s *Server) PluginServices() []csi.PluginCapability_Service_Type {
	var services []csi.PluginCapability_Service_Type
	if s.groups != nil {
		services = append(services, csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE)
	}
	if s.blocks != nil {
		services = append(services, csi.PluginCapability_Service_SNAPSHOT_METADATA_SERVICE)
	}
	return services
}

// GroupControllerGetCapabilities returns the RPCs of the GroupController service that the backend
// supports.
func (s *Server) GroupControllerGetCapabilities(
	context.Context, *csi.GroupControllerGetCapabilitiesRequest,
) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	resp := new(csi.GroupControllerGetCapabilitiesResponse)
	if s.groups != nil {
		resp.Capabilities = append(resp.Capabilities, &csi.GroupControllerServiceCapability{
			Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
				Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
			}},
		})
	}
	return resp, nil
}

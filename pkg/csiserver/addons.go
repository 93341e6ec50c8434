package csiserver

import (
	"context"

	addons "github.com/csi-addons/spec/lib/go/identity"
	"github.com/csi-addons/spec/lib/go/reclaimspace"
	"github.com/golang/protobuf/ptypes/wrappers"

	"github.com/growvol/growvol/pkg/version"
)

// This file serves csi-addons, whose controller runs operations on claims that CSI does not have:
// ReclaimSpaceJob and ReclaimSpaceCronJob. Its services have other names than those of CSI, so that
// they share the socket, the interceptors and the stop.

// registerAddons registers the services of csi-addons that the options have, and its Identity.
func (s *server) registerAddons() {
	if s.ReclaimSpaceController != nil {
		reclaimspace.RegisterReclaimSpaceControllerServer(s.grpc, s.ReclaimSpaceController)
	}
	if s.ReclaimSpaceNode != nil {
		reclaimspace.RegisterReclaimSpaceNodeServer(s.grpc, s.ReclaimSpaceNode)
	}
	if s.ReclaimSpaceController != nil || s.ReclaimSpaceNode != nil {
		addons.RegisterIdentityServer(s.grpc, &addonsIdentity{
			Identity: s.Identity, isController: s.ReclaimSpaceController != nil, isNode: s.ReclaimSpaceNode != nil,
		})
	}
}

// addonsIdentity is the Identity service of csi-addons.
type addonsIdentity struct {
	addons.UnimplementedIdentityServer
	*Identity

	isController, isNode bool
}

// GetIdentity returns the name of the driver, which is also that of its PersistentVolumes, and
// Version.
func (a *addonsIdentity) GetIdentity(
	context.Context, *addons.GetIdentityRequest,
) (*addons.GetIdentityResponse, error) {
	return &addons.GetIdentityResponse{Name: a.name, VendorVersion: version.String()}, nil
}

// GetCapabilities returns the services that this plugin serves. OFFLINE means that the plugin
// serves ControllerReclaimSpace. That call may refuse the volumes of a backend with UNIMPLEMENTED,
// which csi-addons takes as "nothing to do". It fails every ReclaimSpaceJob of a driver whose
// controller lacks OFFLINE, also for volumes in use (kubernetes-csi-addons, getLeadingRSClient).
func (a *addonsIdentity) GetCapabilities(
	context.Context, *addons.GetCapabilitiesRequest,
) (*addons.GetCapabilitiesResponse, error) {
	resp := new(addons.GetCapabilitiesResponse)
	add := func(service addons.Capability_Service_Type, reclaim addons.Capability_ReclaimSpace_Type) {
		resp.Capabilities = append(resp.Capabilities,
			&addons.Capability{Type: &addons.Capability_Service_{Service: &addons.Capability_Service{Type: service}}},
			&addons.Capability{Type: &addons.Capability_ReclaimSpace_{
				ReclaimSpace: &addons.Capability_ReclaimSpace{Type: reclaim},
			}})
	}
	if a.isController {
		add(addons.Capability_Service_CONTROLLER_SERVICE, addons.Capability_ReclaimSpace_OFFLINE)
	}
	if a.isNode {
		add(addons.Capability_Service_NODE_SERVICE, addons.Capability_ReclaimSpace_ONLINE)
	}
	return resp, nil
}

// Probe reports whether the plugin works, as Probe of CSI does.
func (a *addonsIdentity) Probe(ctx context.Context, _ *addons.ProbeRequest) (*addons.ProbeResponse, error) {
	resp, err := a.Identity.Probe(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &addons.ProbeResponse{Ready: &wrappers.BoolValue{Value: resp.GetReady().GetValue()}}, nil
}

package csiserver

import (
	"context"

	"github.com/csi-addons/spec/lib/go/identity"
	"github.com/csi-addons/spec/lib/go/reclaimspace"
	"github.com/golang/protobuf/ptypes/wrappers"
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
		identity.RegisterIdentityServer(s.grpc, &addonsIdentity{
			Identity: s.Identity, isController: s.ReclaimSpaceController != nil, isNode: s.ReclaimSpaceNode != nil,
		})
	}
}

// addonsIdentity is the Identity service of csi-addons.
type addonsIdentity struct {
	identity.UnimplementedIdentityServer
	*Identity

	isController, isNode bool
}

// GetIdentity returns the name of the driver, which is also that of its PersistentVolumes, and
// Version.
func (a *addonsIdentity) GetIdentity(
	context.Context, *identity.GetIdentityRequest,
) (*identity.GetIdentityResponse, error) {
	return &identity.GetIdentityResponse{Name: a.name, VendorVersion: Version()}, nil
}

// GetCapabilities returns the services that this plugin serves. OFFLINE means that the plugin serves
// ControllerReclaimSpace. That call may refuse the volumes of a backend with UNIMPLEMENTED, which
// csi-addons takes as "nothing to do". It fails every ReclaimSpaceJob of a driver whose controller
// lacks OFFLINE, also for volumes in use (kubernetes-csi-addons, getLeadingRSClient).
func (a *addonsIdentity) GetCapabilities(
	context.Context, *identity.GetCapabilitiesRequest,
) (*identity.GetCapabilitiesResponse, error) {
	resp := new(identity.GetCapabilitiesResponse)
	add := func(service identity.Capability_Service_Type, reclaim identity.Capability_ReclaimSpace_Type) {
		resp.Capabilities = append(resp.Capabilities,
			&identity.Capability{Type: &identity.Capability_Service_{Service: &identity.Capability_Service{Type: service}}},
			&identity.Capability{Type: &identity.Capability_ReclaimSpace_{
				ReclaimSpace: &identity.Capability_ReclaimSpace{Type: reclaim},
			}})
	}
	if a.isController {
		add(identity.Capability_Service_CONTROLLER_SERVICE, identity.Capability_ReclaimSpace_OFFLINE)
	}
	if a.isNode {
		add(identity.Capability_Service_NODE_SERVICE, identity.Capability_ReclaimSpace_ONLINE)
	}
	return resp, nil
}

// Probe reports whether the plugin works, as Probe of CSI does.
func (a *addonsIdentity) Probe(ctx context.Context, _ *identity.ProbeRequest) (*identity.ProbeResponse, error) {
	resp, err := a.Identity.Probe(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &identity.ProbeResponse{Ready: &wrappers.BoolValue{Value: resp.GetReady().GetValue()}}, nil
}

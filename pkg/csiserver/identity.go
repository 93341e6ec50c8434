package csiserver

import (
	"context"
	"fmt"
	"regexp"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/golang/protobuf/ptypes/wrappers"

	"github.com/growvol/growvol/pkg/version"
	"github.com/growvol/growvol/pkg/volume"
)

// Identity is the CSI Identity service.
type Identity struct {
	csi.UnimplementedIdentityServer

	name        string
	hasTopology bool
	services    []csi.PluginCapability_Service_Type // besides the Controller
	probe       func(context.Context) error
}

// NewIdentity returns the Identity service of a plugin. It checks the name against the CSI
// specification (GetPluginInfoResponse). hasTopology says whether volumes may be reachable
// from some nodes only. probe returns an error while the plugin is not healthy, as the
// method of volume.HealthChecker does. services are what the controller plugin serves besides
// the Controller service.
func NewIdentity(
	name string, hasTopology bool, probe func(context.Context) error, services ...csi.PluginCapability_Service_Type,
) (*Identity, error) {
	const label = `[0-9A-Za-z]([-0-9A-Za-z]*[0-9A-Za-z])?`
	if ok, err := regexp.MatchString(`^`+label+`(\.`+label+`)*$`, name); err != nil || !ok || len(name) > 63 {
		return nil, fmt.Errorf(
			"the driver name %q is invalid: use a domain name such as loop.growvol.io, of at most 63 characters", name)
	}
	return &Identity{name: name, hasTopology: hasTopology, services: services, probe: probe}, nil
}

// GetPluginInfo returns the name of the driver and Version.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.name, VendorVersion: version.String()}, nil
}

// GetPluginCapabilities returns what the controller plugin and the node plugin can do
// together: it must be the same in both (spec v1.13, GetPluginCapabilities).
func (i *Identity) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	services := []csi.PluginCapability_Service_Type{csi.PluginCapability_Service_CONTROLLER_SERVICE}
	if i.hasTopology {
		services = append(services, csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS)
	}
	services = append(services, i.services...)
	resp := new(csi.GetPluginCapabilitiesResponse)
	for _, t := range services {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}},
		})
	}
	for _, t := range []csi.PluginCapability_VolumeExpansion_Type{
		csi.PluginCapability_VolumeExpansion_ONLINE, csi.PluginCapability_VolumeExpansion_OFFLINE,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: t}},
		})
	}
	return resp, nil
}

// Probe reports whether the plugin works. A plugin that is still starting (kind
// InProgress) answers that it is not ready, and the sidecars wait for it. For any other
// error it answers FAILED_PRECONDITION with the reason, as the specification requires
// (Probe errors), and the sidecars exit.
func (i *Identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	err := i.probe(ctx)
	isStarting := volume.IsKind(err, volume.KindInProgress)
	if err != nil && !isStarting {
		return nil, &volume.Error{Kind: volume.KindPrecondition, Msg: "the plugin is not healthy", Cause: err}
	}
	return &csi.ProbeResponse{Ready: &wrappers.BoolValue{Value: !isStarting}}, nil
}

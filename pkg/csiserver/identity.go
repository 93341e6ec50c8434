package csiserver

import (
	"context"
	"fmt"
	"regexp"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/golang/protobuf/ptypes/wrappers"

	"github.com/growvol/growvol/pkg/volume"
)

// Capabilities are the plugin capabilities of CSI v1.13 that growvol knows.
type Capabilities struct {
	Controller bool // CONTROLLER_SERVICE
	Topology   bool // VOLUME_ACCESSIBILITY_CONSTRAINTS
	Expansion  bool // VolumeExpansion ONLINE and OFFLINE
}

// Identity is the CSI Identity service.
type Identity struct {
	csi.UnimplementedIdentityServer

	name, version string
	capabilities  Capabilities
	probe         func(context.Context) error
}

// NewIdentity returns the Identity service of a plugin. It checks the name against the CSI
// specification (GetPluginInfoResponse). probe reports whether the plugin is healthy, as
// volume.HealthChecker's method does; nil: the plugin is always healthy.
func NewIdentity(
	name, version string, capabilities Capabilities, probe func(context.Context) error,
) (*Identity, error) {
	const label = `[0-9A-Za-z]([-0-9A-Za-z]*[0-9A-Za-z])?`
	if ok, err := regexp.MatchString(`^`+label+`(\.`+label+`)*$`, name); err != nil || !ok || len(name) > 63 {
		return nil, fmt.Errorf("driver name %q: want a domain name such as loop.growvol.io of at most 63 characters", name)
	}
	if version == "" {
		return nil, fmt.Errorf("driver %s has no version", name)
	}
	return &Identity{name: name, version: version, capabilities: capabilities, probe: probe}, nil
}

// GetPluginInfo returns name and version.
func (i *Identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.name, VendorVersion: i.version}, nil
}

// GetPluginCapabilities returns the capabilities of NewIdentity.
func (i *Identity) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	resp := new(csi.GetPluginCapabilitiesResponse)
	addService := func(t csi.PluginCapability_Service_Type) {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}},
		})
	}
	addExpansion := func(t csi.PluginCapability_VolumeExpansion_Type) {
		resp.Capabilities = append(resp.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: t}},
		})
	}
	if i.capabilities.Controller {
		addService(csi.PluginCapability_Service_CONTROLLER_SERVICE)
	}
	if i.capabilities.Topology {
		addService(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS)
	}
	if i.capabilities.Expansion {
		addExpansion(csi.PluginCapability_VolumeExpansion_ONLINE)
		addExpansion(csi.PluginCapability_VolumeExpansion_OFFLINE)
	}
	return resp, nil
}

// Probe reports whether the plugin works. A plugin that is still starting (kind
// InProgress) answers that it is not ready, and the sidecars wait for it. For any other
// error it answers FAILED_PRECONDITION with the reason, as the specification requires
// (Probe errors), and the sidecars exit.
func (i *Identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	err := i.checkHealth(ctx)
	isStarting := volume.IsKind(err, volume.KindInProgress)
	if err != nil && !isStarting {
		return nil, &volume.Error{Kind: volume.KindPrecondition, Msg: "the plugin is not healthy", Cause: err}
	}
	return &csi.ProbeResponse{Ready: &wrappers.BoolValue{Value: !isStarting}}, nil
}

// checkHealth runs the check behind Probe.
func (i *Identity) checkHealth(ctx context.Context) error {
	if i.probe == nil {
		return nil
	}
	return i.probe(ctx)
}

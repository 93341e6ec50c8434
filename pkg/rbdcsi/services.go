package rbdcsi

import "github.com/container-storage-interface/spec/lib/go/csi"

// PluginServices returns the services of the controller plugin besides Controller. The node plugin
// must report the same (CSI v1.13, GetPluginCapabilities), and cannot derive them from the backend.
func PluginServices() []csi.PluginCapability_Service_Type {
	return []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE, csi.PluginCapability_Service_SNAPSHOT_METADATA_SERVICE,
	}
}

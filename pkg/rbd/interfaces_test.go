package rbd

import (
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
)

var (
	_ volume.Backend          = (*Backend)(nil)
	_ volume.Snapshotter      = (*Backend)(nil)
	_ volume.Cloner           = (*Backend)(nil)
	_ volume.SnapshotLister   = (*Backend)(nil)
	_ volume.Lister           = (*Backend)(nil)
	_ volume.CapacityReporter = (*Backend)(nil)
	_ volume.HealthLister     = (*Backend)(nil)
	_ volume.Attacher         = (*Backend)(nil)
	_ volume.Modifier         = (*Backend)(nil)
	_ volume.GroupSnapshotter = (*Backend)(nil)
	_ volume.BlockTracker     = (*Backend)(nil)
	_ volume.SpaceReclaimer   = (*Backend)(nil)
)

// The node plugin must report the services of the controller plugin: rbdServices in
// cmd/growvol-node has the same list.
func TestServicesAreThoseThatTheNodeReports(t *testing.T) {
	got := controller.New(newRig(t), controller.Options{}).PluginServices()
	want := []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE, csi.PluginCapability_Service_SNAPSHOT_METADATA_SERVICE,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got the services %v, want %v", got, want)
	}
}

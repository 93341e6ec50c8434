package rbd

import (
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

var (
	_ volume.Backend          = (*Backend)(nil)
	_ volume.Snapshotter      = (*Backend)(nil)
	_ volume.Cloner           = (*Backend)(nil)
	_ volume.Lister           = (*Backend)(nil)
	_ volume.CapacityReporter = (*Backend)(nil)
	_ volume.HealthLister     = (*Backend)(nil)
	_ volume.Attacher         = (*Backend)(nil)
	_ volume.Modifier         = (*Backend)(nil)
	_ volume.GroupSnapshotter = (*Backend)(nil)
	_ volume.BlockTracker     = (*Backend)(nil)
)

// The node plugin must report the services of the controller plugin.
func TestServicesAreThoseThatTheNodeReports(t *testing.T) {
	got := controller.New(newRig(t), controller.Options{}).PluginServices()
	if want := rbdcsi.PluginServices(); !slices.Equal(got, want) {
		t.Errorf("got the services %v, want %v", got, want)
	}
}

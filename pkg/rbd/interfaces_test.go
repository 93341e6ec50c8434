package rbd

import "github.com/growvol/growvol/pkg/volume"

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
)

package rbd

import "github.com/growvol/growvol/pkg/volume"

var (
	_ volume.Backend = (*Backend)(nil)
)

package rbd

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// Delete implements volume.Backend.
func (*Backend) Delete(_ context.Context, id string) error {
	return volume.Wrap(volume.Errorf(volume.KindUnsupported, "volumes cannot be deleted yet"), "delete volume", id)
}

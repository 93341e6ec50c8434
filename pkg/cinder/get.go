package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, id string) (volume.Volume, error) {
	c, err := b.cloudOf(ctx, id)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "read volume", id)
	}
	v, err := c.Volume(ctx, id)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "read volume", id)
	}
	return b.volume(v), nil
}

package rbd

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/class"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the parameters of VolumeAttributesClasses. They are kept in the metadata of the
// image; ControllerPublishVolume passes them to the node.

// Modify implements volume.Modifier. The parameters replace those of the last call.
func (b *Backend) Modify(ctx context.Context, id string, parameters map[string]string) error {
	attributes, err := class.ParseAttributes(parameters)
	if err != nil {
		return volume.Wrap(err, "modify volume", id)
	}
	t, err := volumeTask(id, "modifying the volume")
	if err != nil {
		return volume.Wrap(err, "modify volume", id)
	}
	_, err = run(ctx, b, t, func(_ context.Context, s *session) (struct{}, error) {
		im, err := s.resolve(id)
		if err != nil {
			return struct{}{}, err
		}
		imageID, err := im.pool.ImageID(im.handle.Image)
		switch {
		case errors.Is(err, unix.ENOENT):
			return struct{}{}, imageMissingError(im.handle, err)
		case err != nil:
			return struct{}{}, fmt.Errorf("cannot read the id of image %s: %w", im.handle, err)
		}
		return struct{}{}, im.writeAttributes(imageID, attributes)
	})
	return volume.Wrap(err, "modify volume", id)
}

// writeAttributes writes the attributes into the metadata of the image and reads them back.
func (t target) writeAttributes(imageID string, attributes map[string]string) error {
	value := metadata.EncodeAttributes(imageID, attributes)
	if err := t.pool.SetMetadata(imageID, metadata.AttributesKey, value); err != nil {
		return fmt.Errorf("cannot write the metadata of image %s: %w", t.handle, err)
	}
	all, err := t.pool.Metadata(imageID)
	if err != nil {
		return fmt.Errorf("cannot read the metadata of image %s back: %w", t.handle, err)
	}
	written, err := metadata.ReadAttributes(imageID, all)
	if err != nil {
		return err
	}
	if !maps.Equal(written, attributes) {
		return volume.Errorf(volume.KindInternal,
			"the attributes of image %s were written as %v, but read back as %v", t.handle, attributes, written)
	}
	return nil
}

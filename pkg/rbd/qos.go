package rbd

import (
	"fmt"
	"maps"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
)

// This file passes the limits of a volume's I/O to the node. Modify keeps them in the metadata of
// the image; the node enforces them for each pod, because the kernel's client knows no limits.

// addLimits adds the limits of the image of that id to the publish context of an attachment.
func addLimits(publishContext map[string]string, pool ceph.Pool, imageID string) error {
	all, err := pool.Metadata(imageID)
	if err != nil {
		return fmt.Errorf("cannot read the metadata of image id %s: %w", imageID, err)
	}
	limits, err := metadata.ReadAttributes(imageID, all)
	maps.Copy(publishContext, limits)
	return err
}

package rbd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/header"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file finishes removals that were interrupted. librbd removes an image in steps: it moves the
// image to the trash (the trash has it, then the object with its id is gone, then its name), ends
// its dependence on its parent, and removes its header. A program that is killed in between leaves
// an image that has no name, but its data, and a parent that waits for it. `rbd trash ls` does not
// show it.

// finishInterrupted removes what an interrupted removal has left of the image of that name. The
// object with the id of the image is gone. Kind Unavailable: the image is in use.
func (s *session) finishInterrupted(ctx context.Context, pool ceph.Pool, at rbdcsi.Location, name string) error {
	for range maxDeleteRounds { // the image, then its name
		id, err := readInterrupted(pool, name)
		if err != nil || id == "" {
			return err
		}
		s.log.WarnContext(ctx, "an interrupted removal has left a part of an image; removing it",
			"pool", poolAndNamespace(at), "image", name, "imageID", id)
		err = pool.Remove(name)
		if errors.Is(err, unix.EBUSY) {
			return s.tombstoneInUseError(ctx, pool, at, name, id)
		}
		if err != nil && !isMissing(err) {
			return fmt.Errorf("cannot finish the removal of image %s: %w", name, err)
		}
	}
	return volume.Errorf(volume.KindUnavailable, "image %s of pool %s is being changed by other programs", name,
		poolAndNamespace(at)).WithRemedy(retryRemedy)
}

// readInterrupted returns the id of an image of that name whose removal was interrupted; empty:
// there is none.
func readInterrupted(pool ceph.Pool, name string) (string, error) {
	values, err := pool.OmapValues(header.Trash)
	if err != nil && !isMissing(err) {
		return "", fmt.Errorf("cannot read the trash: %w", err)
	}
	for key, value := range values {
		trashed, err := header.ReadTrashed(value)
		if err != nil {
			return "", fmt.Errorf("cannot read %s in the trash: %w", key, err)
		}
		if trashed.IsRemoving && trashed.Name == name {
			return strings.TrimPrefix(key, header.TrashKey("")), nil
		}
	}
	id, err := readDirectory(pool, header.IDKey(name))
	if err == nil {
		if _, err = pool.Metadata(id); err == nil {
			return "", nil // the image has a header: it is not being removed
		}
		if isMissing(err) {
			return id, nil
		}
	}
	if isMissing(err) {
		return "", nil
	}
	return "", fmt.Errorf("cannot read whether the name of image %s is left: %w", name, err)
}

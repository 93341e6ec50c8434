package rbd

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/header"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file deletes the volumes and snapshots of ceph-csi, with what it keeps besides their images.
//
// ceph-csi moves the images that it deletes to the trash, and has Ceph's manager remove them from
// there, which succeeds only when their clones are gone (`ceph rbd task list`). Such an image can
// be a clone of a volume that is deleted now, so that the volume becomes a tombstone. The manager
// does not remove the tombstone after it has removed the clone. That is why this driver removes
// images of ceph-csi from the trash as soon as it can.

// deleteCephCSIVolume removes the image of a volume, its temporary clone, and then its entry.
func (s *session) deleteCephCSIVolume(ctx context.Context, t target, h rbdcsi.CephCSIHandle) error {
	images := []target{t}
	if strings.HasSuffix(t.handle.Image, h.UUID) {
		temporary := t
		temporary.handle.Image += temporarySuffix
		images = append(images, temporary)
	}
	for _, image := range images {
		if err := s.deleteCephCSIImage(ctx, image); err != nil {
			return err
		}
	}
	return s.removeCephCSIEntry(volumeJournal(), t.pool, t.handle.Location, h.UUID)
}

// temporarySuffix is at the end of the name of the image that ceph-csi makes between a volume and
// its clone, after the name of the clone (ceph-csi, internal/rbd/clone.go, generateTempClone).
const temporarySuffix = "-temp"

// deleteCephCSISnapshot removes a snapshot: the snapshot itself, its image and its entry.
func (s *session) deleteCephCSISnapshot(ctx context.Context, t snapshotTarget) error {
	h := rbdcsi.VolumeHandle{Location: t.handle.Location, Image: t.handle.Image}
	imageID, err := t.pool.ImageID(t.handle.Image)
	if err == nil {
		err = s.removeSnapshotByName(ctx, target{id: t.id, handle: h, pool: t.pool}, imageID, t.handle.Snapshot)
	}
	if err != nil && !isMissing(err) {
		return err
	}
	if err := s.deleteCephCSIImage(ctx, target{id: t.id, handle: h, pool: t.pool}); err != nil {
		return err
	}
	return s.removeCephCSIEntry(snapshotJournal(), t.pool, t.handle.Location, t.cephCSI)
}

// deleteCephCSIImage removes an image, or makes it a tombstone. Clones of it that ceph-csi has
// deleted are removed first.
func (s *session) deleteCephCSIImage(ctx context.Context, t target) error {
	id, err := t.pool.ImageID(t.handle.Image)
	if err == nil {
		err = s.removeDiscardedClones(ctx, t.pool, t.handle.Cluster, id)
	}
	if err != nil && !isMissing(err) {
		return err
	}
	return s.deleteTarget(ctx, t)
}

// removeDiscardedClones removes the clones of an image that ceph-csi has deleted, and first those
// of the clones. Those that have other clones stay.
func (s *session) removeDiscardedClones(ctx context.Context, pool ceph.Pool, clusterID, imageID string) error {
	r, err := s.readRelatives(ctx, pool, imageID)
	if err != nil || len(r.snapshots) == 0 {
		return err
	}
	im, err := pool.OpenID(imageID, true)
	if err != nil {
		return fmt.Errorf("cannot open image id %s: %w", imageID, err)
	}
	children, err := im.Children()
	s.closeImage(ctx, im)
	if err != nil {
		return fmt.Errorf("cannot list the clones of image id %s: %w", imageID, err)
	}
	for _, child := range children {
		if !child.IsInTrash {
			continue
		}
		at := rbdcsi.Location{Cluster: clusterID, Pool: child.Pool, Namespace: child.Namespace}
		childPool, err := s.pool(at)
		if err == nil {
			err = s.removeDiscardedClones(ctx, childPool, clusterID, child.ID)
		}
		if err == nil {
			err = s.removeDiscarded(ctx, childPool, at, child.ID)
		}
		if err := ignoreMissing(err); err != nil {
			return err
		}
	}
	return nil
}

// removeDiscarded removes the image of that id from the trash if ceph-csi has moved it there and it
// has no clones, and then the same for its parent (removeUnused). Kind Unavailable: the image is in
// use.
func (s *session) removeDiscarded(ctx context.Context, pool ceph.Pool, at rbdcsi.Location, imageID string) error {
	object := removalByID + imageID
	isDiscarded, err := isDiscardedByCephCSI(pool, imageID)
	if err != nil {
		return err
	}
	if !isDiscarded {
		return s.finishRemoval(ctx, pool, at, object)
	}
	r, err := s.readRelatives(ctx, pool, imageID)
	switch {
	case err != nil && !isMissing(err):
		return err
	case len(r.snapshots) > 0:
		return nil
	case r.hasParent:
		if err := s.recordParent(ctx, pool, at, object, r.parent); err != nil {
			return err
		}
	}
	err = pool.RemoveFromTrash(imageID)
	switch {
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EPERM): // EPERM: it is kept until a certain time
		return s.dropRemoval(pool, object)
	case errors.Is(err, unix.EBUSY):
		return volume.Errorf(volume.KindUnavailable,
			"image id %s in the trash of pool %s, which ceph-csi has deleted, is in use: %w",
			imageID, poolAndNamespace(at), err).
			WithRemedy(retryRemedy + "; if it lasts, see: ceph rbd task list")
	case err != nil && !isMissing(err):
		return err
	}
	return s.finishRemoval(ctx, pool, at, object)
}

// isDiscardedByCephCSI reports whether ceph-csi has deleted the image of that id: it is in the
// trash, its name is exactly one that ceph-csi gives, the journal has no entry of it, and it is no
// volume of this driver. Users who move an image to the trash do not remove its entry. Names with a
// prefix of the StorageClass prove nothing: images of others have a UUID at their end, too, as
// those of this driver and of OpenStack.
func isDiscardedByCephCSI(pool ceph.Pool, imageID string) (bool, error) {
	key := header.TrashKey(imageID)
	values, err := pool.OmapValues(header.Trash, key)
	if err != nil && !isMissing(err) {
		return false, fmt.Errorf("cannot read the trash: %w", err)
	}
	if values[key] == "" {
		return false, nil // it is not in the trash
	}
	trashed, err := header.ReadTrashed(values[key])
	if errors.Is(err, header.ErrFormat) {
		return false, nil // of a version of Ceph whose trash this driver does not know
	}
	uuid, isName := cephCSIUUID(trashed.Name)
	if err != nil || !isName {
		return false, err
	}
	for _, j := range []journal{volumeJournal(), snapshotJournal()} {
		if _, err := pool.OmapValues(j.entry + uuid); !isMissing(err) {
			return false, err
		}
	}
	all, err := readMetadata(pool, imageID)
	if err != nil {
		return false, err
	}
	_, isOwn, err := metadata.Read(imageID, all)
	return !isOwn, err
}

// cephCSIUUID returns the UUID in the name of an image of ceph-csi with the default prefix; false:
// it is no such name.
func cephCSIUUID(image string) (string, bool) {
	image = strings.TrimSuffix(image, temporarySuffix)
	for _, j := range []journal{volumeJournal(), snapshotJournal()} {
		if uuid, ok := strings.CutPrefix(image, j.imagePrefix); ok && volume.IsUUID(uuid) {
			return uuid, true
		}
	}
	return "", false
}

// removeCephCSIEntry removes an entry: first its name from the directory, because the entry has the
// name when that is repeated.
func (s *session) removeCephCSIEntry(j journal, pool ceph.Pool, at rbdcsi.Location, uuid string) error {
	object := j.entry + uuid
	values, err := pool.OmapValues(object)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the entry %s of ceph-csi's journal: %w", object, err)
	}
	if name := values[j.nameKey]; name != "" {
		if err := s.removeCephCSIName(j, pool, at, name, uuid, values[cephCSIJournalPool]); err != nil {
			return err
		}
	}
	if err := pool.RemoveObject(object); err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove the entry %s of ceph-csi's journal: %w", object, err)
	}
	return nil
}

// removeCephCSIName removes the name of a request from the directory if it belongs to the UUID.
func (s *session) removeCephCSIName(
	j journal, pool ceph.Pool, at rbdcsi.Location, name, uuid, journalPool string,
) error {
	if journalPool != "" {
		id, err := hex.DecodeString(journalPool)
		if err != nil || len(id) != 8 {
			return volume.Errorf(volume.KindInternal, "the entry %s%s of ceph-csi's journal has the invalid pool %q",
				j.entry, uuid, journalPool)
		}
		if at.Pool, err = s.cluster.PoolName(int64(binary.BigEndian.Uint64(id))); isMissing(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot read the name of pool %s: %w", journalPool, err)
		}
		if pool, err = s.pool(at); err != nil {
			return err
		}
	}
	key := j.requestKey + name
	values, err := pool.OmapValues(j.directory, key)
	if err == nil && isUUIDOf(values[key], uuid) {
		err = pool.RemoveOmapKeys(j.directory, key)
	}
	if err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove %s from %s of ceph-csi's journal: %w", key, j.directory, err)
	}
	return nil
}

// isUUIDOf reports whether the value of the directory, UUID or POOL/UUID, names the UUID.
func isUUIDOf(value, uuid string) bool {
	return value == uuid || len(value) > len(uuid) && value[len(value)-len(uuid)-1:] == "/"+uuid
}

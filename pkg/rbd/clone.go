package rbd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds volumes that are made from other volumes: a temporary snapshot, a clone of it,
// and the removal of the snapshot, which then waits for its clones by itself.

// temporaryPrefix begins the names of temporary snapshots; the name of the new image follows.
const temporaryPrefix = "growvol.clone."

func isTemporary(s ceph.Snapshot) bool {
	return !s.IsRemoved && !s.IsForeign && strings.HasPrefix(s.Name, temporaryPrefix)
}

// maxAncestors is the number of parents that an image may have in a chain: the kernel's client maps
// no image with more (Linux, drivers/block/rbd.c, RBD_MAX_PARENT_CHAIN_LEN).
const maxAncestors = 16

// CloneVolume implements volume.Cloner.
func (b *Backend) CloneVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	// The lock of the source makes every temporary snapshot that is found one that a call has
	// left.
	v, err := b.create(ctx, req, &volumeCopy{source: req.Source.VolumeID}, req.Source.VolumeID)
	return v, volume.Wrap(err, "clone volume", req.Name)
}

// volumeCopy is the origin of volumes that are made from volumes.
type volumeCopy struct {
	source string // handle
	depth  *int   // of the source; nil: not read
}

// make implements origin.
func (o *volumeCopy) make(
	ctx context.Context, s *session, pool ceph.Pool, c creation, h rbdcsi.VolumeHandle, options ceph.ImageOptions,
) error {
	source, err := s.resolveSource(o.source, h.Cluster)
	if err != nil {
		return err
	}
	id, err := source.imageID()
	if err != nil {
		return err
	}
	if o.depth, err = s.checkSourceImage(ctx, c, source.pool, id, source.spec()); err != nil {
		return err
	}
	if source.handle.Snapshot != "" {
		return s.cloneSnapshot(pool, source.pool, source.handle.Image, source.handle.Snapshot, h, options)
	}
	if err := source.checkNotCephCSIEncrypted(); err != nil {
		return err
	}
	r, err := s.readRelatives(ctx, source.pool, id)
	if err != nil {
		return err
	}
	im, err := source.open(false)
	if err != nil {
		return err
	}
	defer s.closeImage(ctx, im)
	temporary := temporaryPrefix + h.Image
	if err := s.takeTemporary(ctx, im, source, id, temporary, r.snapshots); err != nil {
		return err
	}
	err = s.cloneSnapshot(pool, source.pool, source.handle.Image, temporary, h, options)
	if removed := s.removeSnapshotOf(im, source, temporary); removed != nil && !isMissing(removed) {
		return errors.Join(err, fmt.Errorf("cannot remove the temporary snapshot %s of image %s: %w",
			temporary, source.handle, removed))
	}
	return err
}

// imageID returns the id of the image. Kind NotFound.
func (t target) imageID() (string, error) {
	id, err := t.pool.ImageID(t.handle.Image)
	if isMissing(err) {
		return "", imageMissingError(t.handle, err)
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the id of image %s: %w", t.handle, err)
	}
	return id, nil
}

// resolveSource returns the image of a source in the cluster of the new volume. Kind Invalid: it is
// in another cluster.
func (s *session) resolveSource(id, clusterID string) (target, error) {
	source, err := clusterOf(id)
	if err != nil {
		return target{}, err
	}
	if source != clusterID {
		return target{}, otherClusterError(source, clusterID)
	}
	return s.resolve(id)
}

func otherClusterError(source, target string) error {
	return volume.Errorf(volume.KindInvalid,
		"the source is in cluster %s, but the StorageClass makes volumes in cluster %s: Ceph clones images only "+
			"inside a cluster", source, target).
		WithRemedy("use a StorageClass with clusterID " + source + ", or copy the data with a pod")
}

// takeTemporary takes the temporary snapshot of an open image, and removes those among its
// snapshots that earlier calls have left. EEXIST is no error: an earlier call for the same volume
// has taken it.
func (s *session) takeTemporary(
	ctx context.Context, im ceph.Image, source target, imageID, name string, snapshots []ceph.Snapshot,
) error {
	for _, snapshot := range snapshots {
		if !isTemporary(snapshot) || snapshot.Name == name {
			continue
		}
		if err := s.removeSnapshotOf(im, source, snapshot.Name); err != nil && !isMissing(err) {
			return fmt.Errorf("cannot remove the temporary snapshot %s of image %s: %w", snapshot.Name, source.handle, err)
		}
	}
	if err := checkSnapshotCount(snapshots, source.spec()); err != nil {
		return err
	}
	err := s.takeImageSnapshot(ctx, im, source, imageID, name)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return s.snapshotError(err, source.spec())
	}
	return nil
}

// removeSnapshotByName opens the image and removes the snapshot; it succeeds if there is none. It
// opens the image read-only, so that it works while the pool is full.
func (s *session) removeSnapshotByName(ctx context.Context, t target, imageID, name string) error {
	im, err := t.pool.OpenID(imageID, true)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot open image id %s: %w", imageID, err)
	}
	defer s.closeImage(ctx, im)
	if err := s.removeSnapshotOf(im, t, name); err != nil && !isMissing(err) {
		return fmt.Errorf("cannot remove snapshot %s of image id %s: %w", name, imageID, err)
	}
	return nil
}

// cloneSnapshot clones a snapshot by names. Kinds: NotFound, Precondition. EEXIST.
func (s *session) cloneSnapshot(
	pool, parent ceph.Pool, image, snapshot string, h rbdcsi.VolumeHandle, options ceph.ImageOptions,
) error {
	err := pool.Clone(parent, image, snapshot, h.Image, options)
	switch {
	case isMissing(err):
		return volume.Errorf(volume.KindNotFound, "image %s has no snapshot %s, or the pool %s, its namespace or its "+
			"data pool does not exist: %w", image, snapshot, poolAndNamespace(h.Location), err)
	case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL):
		return volume.Errorf(volume.KindPrecondition, "Ceph does not clone snapshot %s of image %s with the features %v: %w",
			snapshot, image, options.Features, err).
			WithRemedy("make sure that the source image has the feature layering, and that imageFeatures of the StorageClass " +
				"has it, too: rbd info " + image)
	case err != nil:
		return fmt.Errorf("cannot clone snapshot %s of image %s: %w", snapshot, image, err)
	}
	return nil
}

// complete implements origin: it removes the temporary snapshot if make has not, and grows the
// clone.
func (o *volumeCopy) complete(ctx context.Context, s *session, pool ceph.Pool, c creation, f *found) error {
	source, err := s.resolveSource(o.source, f.candidate.handle.Cluster)
	if err != nil {
		return err
	}
	parent, _, _ := splitTombstone(f.parent.Image)
	if f.hasParent && (!isAt(f.parent, source.handle.Location) || parent != source.handle.Image) {
		return notCloneError(f, o.source)
	}
	if err := s.checkCloned(ctx, source.pool, f); err != nil {
		return err
	}
	temporary := temporaryPrefix + f.candidate.handle.Image
	if f.parent.Snapshot == temporary {
		if err := s.removeSnapshotByName(ctx, source, f.parent.ID, temporary); err != nil {
			return err
		}
	}
	return s.completeClone(ctx, pool, source.pool, c, f, o.depth)
}

// isAt reports whether the image is in that pool and namespace.
func isAt(image ceph.ImageName, l rbdcsi.Location) bool {
	return image.Pool == l.Pool && image.Namespace == l.Namespace
}

// completeClone grows a clone to the requested size and sets its depth. depth is that of its
// parent; nil: not read.
func (s *session) completeClone(
	ctx context.Context, pool, parent ceph.Pool, c creation, f *found, depth *int,
) error {
	if depth == nil {
		var err error
		spec := f.parent.Pool + "/" + f.parent.Image
		if depth, err = s.checkSourceImage(ctx, c, parent, f.parent.ID, spec); err != nil {
			return err
		}
	}
	f.depth = *depth + 1
	if volume.Size(f.info.Size) >= c.req.Size {
		return nil
	}
	t := target{id: f.candidate.handle.String(), handle: f.candidate.handle, pool: pool}
	v, err := s.expand(ctx, t, c.req.Size)
	f.info.Size = uint64(v.Size)
	return err
}

func notCloneError(f *found, source string) error {
	found := "is no clone"
	if f.hasParent {
		found = fmt.Sprintf("is a clone of %s/%s@%s", f.parent.Pool, f.parent.Image, f.parent.Snapshot)
	}
	return volume.Errorf(volume.KindAlreadyExists, "image %s has this name, but %s and was not made from %s",
		f.candidate.handle, found, source).
		WithRemedy("if nothing uses the image, delete it; otherwise recreate the claim to get a new name")
}

// checkSourceImage checks that clones of the image can be used, and returns its depth. Kind
// Precondition: the chain of its parents is too long, or ceph-csi has encrypted it. Kind Invalid:
// the node encrypts the source, but would not encrypt the clone, or the other way round.
func (s *session) checkSourceImage(
	ctx context.Context, c creation, pool ceph.Pool, imageID, spec string,
) (*int, error) {
	all, err := readMetadata(pool, imageID)
	if err != nil {
		return nil, err
	}
	if err := checkNotEncrypted(all, spec); err != nil {
		return nil, err
	}
	if err := c.checkSourceEncryption(imageID, all, spec); err != nil {
		return nil, err
	}
	depth, err := s.depthOf(ctx, pool, imageID, all)
	if err != nil {
		return nil, err
	}
	if depth >= maxAncestors {
		return nil, volume.Errorf(volume.KindPrecondition,
			"the source image %s has a chain of %d parents, and the kernel maps no image with more than %d", spec, depth,
			maxAncestors).
			WithRemedy("make the source independent of its parents, which copies its data: rbd flatten " + spec)
	}
	return &depth, nil
}

// checkSourceEncryption compares the encryption of the source with the requested one; all are its
// metadata. Those of an image that the driver did not make do not say it: it is not checked.
func (c creation) checkSourceEncryption(imageID string, all map[string]string, spec string) error {
	record, found, err := metadata.Read(imageID, all)
	switch {
	case err != nil:
		return err
	case !found || record.Encrypted == c.req.Encrypted:
		return nil
	case record.Encrypted:
		return volume.Errorf(volume.KindInvalid, "the node encrypts the source image %s, but the StorageClass has no "+
			"%s: \"true\": the new volume would have the encrypted data and could not be read", spec, volume.EncryptedKey).
			WithRemedy("use a StorageClass with " + volume.EncryptedKey + `: "true" and the same passphrase`)
	}
	return volume.Errorf(volume.KindInvalid, "the source image %s is not encrypted, but the StorageClass has "+
		"%s: \"true\": the new volume would have no encrypted data, and could not be opened", spec, volume.EncryptedKey).
		WithRemedy("use a StorageClass without " + volume.EncryptedKey + ", or copy the data with a pod into an empty " +
			"encrypted volume")
}

// readMetadata returns the metadata of an image; none if it does not exist.
func readMetadata(pool ceph.Pool, imageID string) (map[string]string, error) {
	all, err := pool.Metadata(imageID)
	if err != nil && !isMissing(err) {
		return nil, fmt.Errorf("cannot read the metadata of image id %s: %w", imageID, err)
	}
	return all, nil
}

// depthOf returns how many ancestors the image of that id has; all are its metadata. It trusts the
// records of images up to the limit; above it, an image may have been flattened since, so that
// depthOf reads the parents.
func (s *session) depthOf(ctx context.Context, pool ceph.Pool, imageID string, all map[string]string) (int, error) {
	for depth := 0; ; depth++ {
		record, found, err := metadata.Read(imageID, all)
		if err != nil {
			return 0, err
		}
		if found && depth+record.Depth < maxAncestors {
			return depth + record.Depth, nil
		}
		r, err := s.readRelatives(ctx, pool, imageID)
		if isMissing(err) || err == nil && !r.hasParent || depth > maxAncestors {
			return depth, nil
		}
		if err != nil {
			return 0, err
		}
		if pool, err = s.cluster.Pool(r.parent.Pool, r.parent.Namespace); err != nil {
			return 0, fmt.Errorf("cannot open pool %s: %w", r.parent.Pool, err)
		}
		imageID = r.parent.ID
		if all, err = readMetadata(pool, imageID); err != nil {
			return 0, err
		}
	}
}

package rbd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/attachment"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/metadata"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds how handles become images, and images volumes.

// target is the image that a handle names.
type target struct {
	id     string // the handle, as Kubernetes has it
	handle rbdcsi.VolumeHandle
	pool   ceph.Pool
}

// migratedPrefix begins the handles that ceph-csi gives to volumes of Kubernetes' own driver
// kubernetes.io/rbd (ceph-csi, internal/rbd/migration.go).
const migratedPrefix = "mig_mons-"

// clusterOf returns the id of the cluster of a volume handle, of this driver or of ceph-csi. Kinds:
// NotFound (the text is no handle, so that no image can have it), Precondition (the handle is that
// of a volume of kubernetes.io/rbd).
func clusterOf(id string) (string, error) {
	if h, ok := rbdcsi.ParseCephCSIHandle(id); ok {
		return h.Cluster, nil
	}
	if strings.HasPrefix(id, migratedPrefix) {
		return "", volume.Errorf(volume.KindPrecondition,
			"the volume is one of kubernetes.io/rbd, which ceph-csi serves and this driver does not").
			WithRemedy("set persistentVolumeReclaimPolicy of the PersistentVolume to Retain, and create a PersistentVolume " +
				"for its image with the handle clusterID/pool/image")
	}
	h, err := rbdcsi.ParseVolumeHandle(id)
	if err != nil {
		return "", volume.Errorf(volume.KindNotFound, "no volume has this handle: %w", err)
	}
	return h.Cluster, nil
}

// volumeTask returns the task for work on a volume.
func volumeTask(id, what string) (task, error) {
	clusterID, err := clusterOf(id)
	return task{what: what, id: id, cluster: clusterID, pools: poolsOf(id), locks: []string{id}}, err
}

// resolve returns the image that a handle names; it does not prove that the image exists. Kind
// NotFound: as for resolveCephCSI.
func (s *session) resolve(id string) (target, error) {
	h, err := rbdcsi.ParseVolumeHandle(id)
	if old, ok := rbdcsi.ParseCephCSIHandle(id); ok {
		h, err = s.resolveCephCSI(old)
	}
	if err != nil {
		return target{}, err
	}
	if _, _, ok := splitTombstone(h.Image); ok {
		return target{}, volume.Errorf(volume.KindNotFound, "image %s is what is left of a deleted volume", h)
	}
	pool, err := s.pool(h.Location)
	return target{id: id, handle: h, pool: pool}, err
}

// open opens the image. The caller closes it. Kind NotFound: the cluster says that there is no such
// image.
func (t target) open(readOnly bool) (ceph.Image, error) {
	im, err := t.pool.Open(t.handle.Image, readOnly)
	if errors.Is(err, unix.ENOENT) {
		return nil, imageMissingError(t.handle, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open image %s: %w", t.handle, err)
	}
	return im, nil
}

// closeImage closes an image that was read only: its answers are valid, whatever closing returns.
func (s *session) closeImage(ctx context.Context, im ceph.Image) {
	if err := im.Close(); err != nil {
		s.log.WarnContext(ctx, "cannot close an image", "error", err)
	}
}

// Get implements volume.Backend.
func (b *Backend) Get(ctx context.Context, id string) (volume.Volume, error) {
	t, err := volumeTask(id, "reading the volume")
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "read volume", id)
	}
	t.locks = []string{"reading " + id} // it changes nothing, and must not wait for an expansion
	v, err := run(ctx, b, t, func(ctx context.Context, s *session) (volume.Volume, error) {
		im, err := s.resolve(id)
		if err != nil {
			return volume.Volume{}, err
		}
		return s.readVolume(ctx, im)
	})
	return v, volume.Wrap(err, "read volume", id)
}

// readVolume reads the image and its record.
func (s *session) readVolume(ctx context.Context, t target) (volume.Volume, error) {
	im, err := t.open(true)
	if err != nil {
		return volume.Volume{}, err
	}
	defer s.closeImage(ctx, im)
	info, err := im.Info()
	if err != nil {
		return volume.Volume{}, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	}
	record, _, nodes, err := t.readMetadata(info.ID)
	if err != nil {
		return volume.Volume{}, err
	}
	if t.handle.Snapshot != "" {
		if info.Size, err = t.snapshotSize(im); err != nil {
			return volume.Volume{}, err
		}
	}
	v := toVolume(t.id, info, record)
	v.Nodes = nodes
	return v, nil
}

// snapshotSize returns the size in bytes of the snapshot that a static volume is. Kind NotFound.
func (t target) snapshotSize(im ceph.Image) (uint64, error) {
	snapshots, err := im.Snapshots()
	if err != nil {
		return 0, fmt.Errorf("cannot read the snapshots of image %s: %w", t.handle, err)
	}
	for _, snapshot := range snapshots {
		if snapshot.Name == t.handle.Snapshot && !snapshot.IsRemoved {
			return snapshot.Size, nil
		}
	}
	return 0, volume.Errorf(volume.KindNotFound, "image %s has no snapshot %s", t.spec(), t.handle.Snapshot)
}

// readRecord reads the record of the image; false: it has none.
func (t target) readRecord(imageID string) (metadata.Record, bool, error) {
	record, found, _, err := t.readMetadata(imageID)
	return record, found, err
}

// readMetadata is readRecord that also returns the nodes to which the image is attached.
func (t target) readMetadata(imageID string) (record metadata.Record, found bool, nodes []string, err error) {
	all, err := t.pool.Metadata(imageID)
	if errors.Is(err, unix.ENOENT) {
		return metadata.Record{}, false, nil, imageMissingError(t.handle, err)
	}
	if err != nil {
		return metadata.Record{}, false, nil, fmt.Errorf("cannot read the metadata of image %s: %w", t.handle, err)
	}
	if nodes, err = attachment.NodeNames(imageID, all); err != nil {
		return metadata.Record{}, false, nil, err
	}
	record, found, err = metadata.Read(imageID, all)
	return record, found, nodes, err
}

// toVolume returns the volume of an image. The record is empty for an image that this driver did
// not make.
func toVolume(id string, info ceph.ImageInfo, record metadata.Record) volume.Volume {
	return volume.Volume{
		ID: id, Name: record.Name, Size: volume.Size(info.Size), Source: record.Source(), Encrypted: record.Encrypted,
	}
}

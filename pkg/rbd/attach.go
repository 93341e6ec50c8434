package rbd

import (
	"context"
	"strconv"

	"github.com/growvol/growvol/pkg/rbd/internal/attachment"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Nodes reads and annotates the Nodes of Kubernetes; kubeapi.API implements it.
type Nodes = attachment.Nodes

// Attach implements volume.Attacher; see attachment.Attachment.Attach.
func (b *Backend) Attach(ctx context.Context, req volume.AttachRequest) (map[string]string, error) {
	t, err := volumeTask(req.VolumeID, "attaching the volume")
	if err != nil {
		return nil, volume.Wrap(err, "attach volume", req.VolumeID)
	}
	published, err := run(ctx, b, t, func(ctx context.Context, s *session) (map[string]string, error) {
		im, err := s.resolve(req.VolumeID)
		if err != nil {
			return nil, err
		}
		if im.handle.Snapshot != "" {
			return s.attachSnapshot(ctx, im, req.Access)
		}
		if err := im.checkNotCephCSIEncrypted(); err != nil {
			return nil, err
		}
		info, err := s.attachment(im).Attach(ctx, req.Node, req.Access)
		if err != nil {
			return nil, err
		}
		published := s.publishContext(im, info)
		return published, addLimits(published, im.pool, info.ID)
	})
	return published, volume.Wrap(err, "attach volume", req.VolumeID)
}

// Detach implements volume.Attacher; see attachment.Attachment.Detach.
func (b *Backend) Detach(ctx context.Context, id, node string) error {
	t, err := volumeTask(id, "detaching the volume")
	if err != nil {
		return volume.Wrap(err, "detach volume", id)
	}
	_, err = run(ctx, b, t, func(ctx context.Context, s *session) (struct{}, error) {
		im, err := s.resolve(id)
		if err != nil || im.handle.Snapshot != "" {
			return struct{}{}, err // a snapshot has no record: a node cannot write to it
		}
		return struct{}{}, s.attachment(im).Detach(ctx, node)
	})
	return volume.Wrap(err, "detach volume", id)
}

// attachment returns the attachment of an image to nodes.
func (s *session) attachment(t target) attachment.Attachment {
	return attachment.Attachment{
		Cluster: s.cluster, Pool: t.pool, Namespace: t.handle.Namespace, Name: t.spec(), Nodes: s.opts.Nodes, Log: s.log,
		Open: func() (ceph.Image, error) { return t.open(true) },
	}
}

// attachSnapshot returns the publish context of a static volume that is a snapshot. Kind
// Precondition: the access allows writing.
func (s *session) attachSnapshot(ctx context.Context, t target, access volume.Access) (map[string]string, error) {
	if !access.Mode.IsReadOnly() {
		return nil, volume.Errorf(volume.KindPrecondition, "the volume is the snapshot %s@%s, "+
			"which cannot be written to, but %s is requested", t.spec(), t.handle.Snapshot, access.Mode).
			WithRemedy("set accessModes: [ReadOnlyMany] in the PersistentVolume, or restore a volume from the snapshot")
	}
	im, err := t.open(true)
	if err != nil {
		return nil, err
	}
	defer s.closeImage(ctx, im)
	info, err := im.Info()
	if err != nil {
		return nil, err
	}
	if info.Size, err = t.snapshotSize(im); err != nil {
		return nil, err
	}
	return s.publishContext(t, info), nil
}

// publishContext returns what the node needs to know about the image.
func (s *session) publishContext(t target, info ceph.ImageInfo) map[string]string {
	published := map[string]string{
		rbdcsi.ContextCluster: t.handle.Cluster, rbdcsi.ContextFSID: s.cluster.FSID(),
		rbdcsi.ContextPool: t.handle.Pool, rbdcsi.ContextPoolID: strconv.FormatInt(t.pool.ID(), 10),
		rbdcsi.ContextNamespace: t.handle.Namespace,
		rbdcsi.ContextImage:     t.handle.Image, rbdcsi.ContextImageID: info.ID,
		rbdcsi.ContextSnapshot: t.handle.Snapshot,
		rbdcsi.ContextSize:     strconv.FormatUint(info.Size, 10),
	}
	for key, value := range published {
		if value == "" {
			delete(published, key)
		}
	}
	return published
}

package node

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"

	"github.com/csi-addons/spec/lib/go/reclaimspace"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// NodeReclaimSpace discards the free blocks of a staged filesystem while pods use it, so that the
// storage system can use them for others (csi-addons, service ReclaimSpaceNode). It answers
// UNIMPLEMENTED with the reason where that is impossible: csi-addons takes that as "nothing to
// do".
//
// The answer has no usage: the kernel knows what was discarded, which the log and a metric report,
// but not what the storage system has gained by it.
//
// It holds the volume's lock only until the filesystem is open, so that an expansion never waits
// for it. NodeUnstageVolume ends it (stopTrim).
func (s *Server) NodeReclaimSpace(
	ctx context.Context, req *reclaimspace.NodeReclaimSpaceRequest,
) (*reclaimspace.NodeReclaimSpaceResponse, error) {
	id, staging := req.GetVolumeId(), req.GetStagingTargetPath()
	if err := checkID(id); err != nil {
		return nil, err
	}
	// The sidecar of csi-addons leaves out volume_path, although the specification requires it.
	if staging != "" || req.GetVolumePath() == "" {
		if err := checkPath("staging_target_path", staging); err != nil {
			return nil, err
		}
		staging = filepath.Clean(staging)
	}
	if req.GetVolumeCapability().GetBlock() != nil {
		return nil, volume.Wrap(rawVolumeError(), "reclaim space of", id)
	}
	trimmed, err := s.reclaim(ctx, id, staging)
	s.opts.Metrics.trimmed(trimmed, err)
	if err != nil {
		return nil, volume.Wrap(err, "reclaim space of", id)
	}
	s.log.InfoContext(ctx, "discarded the free blocks of a filesystem", "volume", id, "discarded", trimmed.String())
	return &reclaimspace.NodeReclaimSpaceResponse{}, nil
}

// trim is a running NodeReclaimSpace.
type trim struct {
	stop context.CancelFunc
	done chan struct{} // closed when the filesystem is no longer in use by the trim
}

// reclaim returns how many bytes were discarded, also with an error. staging may be empty: the
// record of the volume has it.
func (s *Server) reclaim(ctx context.Context, id, staging string) (volume.Size, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	lease := (*operation.Tracker)(nil).NewLease(id, nil)
	defer lease.Release()
	vol, mountPoint, err := s.beginTrim(ctx, id, staging, &trim{stop: stop, done: make(chan struct{})}, lease)
	if err != nil {
		return 0, err
	}
	if err := s.checkDiscards(vol.Layers); err != nil {
		return 0, err
	}
	// The work may return after this call; then nobody reads its result.
	type result struct {
		trimmed volume.Size
		err     error
	}
	r, err := operation.RunDetached(ctx, lease, "discarding the free blocks at "+mountPoint, func() (result, error) {
		trimmed, err := s.opts.Filesystems.Trim(ctx, filesystem.TrimRequest{Device: vol, MountPoint: mountPoint})
		return result{trimmed, err}, nil
	})
	if err = cmp.Or(err, r.err); volume.IsKind(err, volume.KindCanceled) && errors.Is(ctx.Err(), context.Canceled) {
		err = volume.Errorf(volume.KindInProgress, "stopped, because the volume is unstaged or the caller has gone: %w", err)
	}
	return r.trimmed, err
}

// beginTrim opens the filesystem that is mounted at the staging path, and registers the trim. It
// holds the volume's lock meanwhile. The lease ends the trim and closes the filesystem's device.
func (s *Server) beginTrim(
	ctx context.Context, id, staging string, t *trim, lease *operation.Lease,
) (vol *inspect.Volume, mountPoint string, err error) {
	_, connected, err := s.opts.Connector.Locate(ctx, id)
	if err != nil {
		return nil, "", err
	}
	volumeLease, err := s.lockVolume(ctx, id)
	if err != nil {
		return nil, "", err
	}
	defer volumeLease.Release()
	record, err := s.records.Read(id)
	if err != nil {
		return nil, "", err
	}
	if staging = cmp.Or(staging, record.Staging); !connected || staging == "" {
		return nil, "", volume.Errorf(volume.KindPrecondition, "the volume is not staged on this node").
			WithRemedy("send the request to a node on which a pod uses the volume")
	}
	if record.Block {
		return nil, "", rawVolumeError()
	}
	if err := s.refreshDevice(ctx, id); err != nil {
		return nil, "", err
	}
	m, mounted, err := s.inspector.FindMount(ctx, volumeLease, staging)
	switch {
	case err != nil:
		return nil, "", err
	case !mounted:
		return nil, "", volume.Errorf(volume.KindPrecondition, "no filesystem is mounted at the staging path %s", staging).
			WithRemedy("delete the pod: the volume is staged again when the pod starts")
	case m.IsDeviceNode():
		return nil, "", rawVolumeError()
	}
	if s.trims.get(id) != nil {
		return nil, "", volume.Errorf(volume.KindInProgress, "the free blocks of the volume are being discarded already").
			WithRemedy("no action needed: the running call reports the result")
	}
	if vol, err = s.inspector.OpenMount(ctx, id, m, lease); err != nil {
		return nil, "", err
	}
	s.trims.set(id, t)
	lease.Add(func() {
		vol.Release()
		s.trims.forget(id)
		close(t.done)
	})
	return vol, staging, nil
}

// stopTrim ends the trim of a volume, and waits until it no longer uses the filesystem. The caller
// has the volume's lock, so that none begins.
func (s *Server) stopTrim(ctx context.Context, id string) error {
	t := s.trims.get(id)
	if t == nil {
		return nil
	}
	t.stop()
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return volume.Errorf(volume.KindDeadline,
			"the volume is in use: the kernel is still discarding its free blocks: %w", context.Cause(ctx)).
			WithRemedy("no action needed: Kubernetes retries this automatically")
	}
}

// checkDiscards returns an error if a layer between filesystem and disk does not pass discards on.
func (s *Server) checkDiscards(layers []blockdev.Device) error {
	for _, layer := range layers {
		if layer.Kind == blockdev.KindPartition {
			continue // it passes on what its disk does
		}
		limit, err := s.opts.Devices.DiscardLimit(layer)
		if err != nil {
			return err
		}
		if limit > 0 {
			continue
		}
		if layer.Kind == blockdev.KindCrypt && len(layers) > 1 {
			return volume.Errorf(volume.KindPrecondition, "the encrypted mapping %s was opened without discards, "+
				"which would show to the storage system which blocks are unused", layer.Path).
				WithRemedy("start the node plugin with --encrypted-discards (value node.encryptedDiscards of the chart) " +
					"if that may be seen, then restart the pods that use the volume")
		}
		return volume.Errorf(volume.KindUnsupported,
			"the disk %s of the volume does not discard, so that the storage system cannot take space back", layer).
			WithRemedy("configure the storage system, or the disk bus of the server, so that its disks discard")
	}
	return nil
}

// rawVolumeError is the error for a raw block volume.
func rawVolumeError() error {
	return volume.Errorf(volume.KindUnsupported,
		"the volume is a raw block device: only the program that uses it knows which blocks are free").
		WithRemedy("let that program discard them (BLKDISCARD)")
}

package controller

import (
	"cmp"
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the SnapshotMetadata service: which blocks of a snapshot hold data, and which
// changed between two snapshots of a volume.

// maxRangesPerMessage bounds a message of a stream: 1024 ranges are about 20 KiB.
const maxRangesPerMessage = 1024

// GetMetadataAllocated streams the ranges of a snapshot that hold data.
func (s *Server) GetMetadataAllocated(
	req *csi.GetMetadataAllocatedRequest, stream csi.SnapshotMetadata_GetMetadataAllocatedServer,
) error {
	ctx := volume.WithSecrets(stream.Context(), req.GetSecrets())
	if err := checkRequired("snapshot_id", req.GetSnapshotId()); err != nil {
		return err
	}
	blocks := volume.BlocksRequest{SnapshotID: req.GetSnapshotId(), Offset: volume.Size(req.GetStartingOffset())}
	return s.sendBlocks(ctx, blocks, req.GetMaxResults(), func(size volume.Size, ranges []*csi.BlockMetadata) error {
		return stream.Send(&csi.GetMetadataAllocatedResponse{
			BlockMetadataType: csi.BlockMetadataType_VARIABLE_LENGTH, VolumeCapacityBytes: size.Bytes(), BlockMetadata: ranges,
		})
	})
}

// GetMetadataDelta streams the ranges that may differ between two snapshots of a volume.
func (s *Server) GetMetadataDelta(
	req *csi.GetMetadataDeltaRequest, stream csi.SnapshotMetadata_GetMetadataDeltaServer,
) error {
	ctx := volume.WithSecrets(stream.Context(), req.GetSecrets())
	if err := cmp.Or(
		checkRequired("base_snapshot_id", req.GetBaseSnapshotId()),
		checkRequired("target_snapshot_id", req.GetTargetSnapshotId()),
	); err != nil {
		return err
	}
	blocks := volume.BlocksRequest{
		BaseID: req.GetBaseSnapshotId(), SnapshotID: req.GetTargetSnapshotId(), Offset: volume.Size(req.GetStartingOffset()),
	}
	return s.sendBlocks(ctx, blocks, req.GetMaxResults(), func(size volume.Size, ranges []*csi.BlockMetadata) error {
		return stream.Send(&csi.GetMetadataDeltaResponse{
			BlockMetadataType: csi.BlockMetadataType_VARIABLE_LENGTH, VolumeCapacityBytes: size.Bytes(), BlockMetadata: ranges,
		})
	})
}

// sendBlocks calls send for the ranges, at most maxResults (0: maxRangesPerMessage) at a time.
func (s *Server) sendBlocks(
	ctx context.Context, req volume.BlocksRequest, maxResults int32,
	send func(size volume.Size, ranges []*csi.BlockMetadata) error,
) error {
	if s.blocks == nil {
		return unsupportedError("list the blocks of snapshots")
	}
	if maxResults < 0 {
		return volume.Errorf(volume.KindInvalid, "max_results is %d, but must not be negative", maxResults)
	}
	size, err := s.checkBlocks(ctx, req)
	if err != nil {
		return volume.Wrap(err, "list blocks of snapshot", req.SnapshotID)
	}
	limit := maxRangesPerMessage
	if maxResults > 0 {
		limit = min(limit, int(maxResults))
	}
	var ranges []*csi.BlockMetadata
	err = s.blocks.Blocks(ctx, req, func(r volume.BlockRange) error {
		ranges = append(ranges, &csi.BlockMetadata{ByteOffset: r.Offset.Bytes(), SizeBytes: r.Length.Bytes()})
		if len(ranges) < limit {
			return nil
		}
		err := send(size, ranges)
		ranges = nil
		return err
	})
	if err == nil && len(ranges) > 0 {
		err = send(size, ranges)
	}
	return volume.Wrap(err, "list blocks of snapshot", req.SnapshotID)
}

// checkBlocks checks the request against the snapshots, and returns the size of the snapshot.
// Kinds: NotFound, OutOfRange (the offset), Invalid (the snapshots are of different volumes, or
// the base is the later one).
func (s *Server) checkBlocks(ctx context.Context, req volume.BlocksRequest) (volume.Size, error) {
	target, err := s.blocks.GetSnapshot(ctx, req.SnapshotID)
	if err != nil {
		return 0, err
	}
	if req.Offset < 0 || req.Offset > target.Size {
		return 0, volume.Errorf(volume.KindOutOfRange, "starting_offset is %d, but the snapshot has %d bytes",
			req.Offset.Bytes(), target.Size.Bytes())
	}
	if req.BaseID == "" {
		return target.Size, nil
	}
	base, err := s.blocks.GetSnapshot(ctx, req.BaseID)
	if err != nil {
		return 0, err
	}
	switch {
	case base.VolumeID != target.VolumeID:
		return 0, volume.Errorf(volume.KindInvalid, "snapshot %s is of volume %s, but the base snapshot %s is of volume %s",
			target.ID, target.VolumeID, base.ID, base.VolumeID)
	case base.Created.After(target.Created):
		return 0, volume.Errorf(volume.KindInvalid, "the base snapshot %s is later than snapshot %s", base.ID, target.ID).
			WithRemedy("exchange base_snapshot_id and target_snapshot_id")
	}
	return target.Size, nil
}

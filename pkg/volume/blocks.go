package volume

import "context"

// This file holds the optional interface of backends that know which blocks of a snapshot hold data
// and which changed since an earlier one.

// BlockRange is a range of a volume in bytes.
type BlockRange struct {
	Offset Size
	Length Size // above zero
}

// BlocksRequest selects ranges of a snapshot.
type BlocksRequest struct {
	// BaseID is an earlier snapshot of the same volume: the ranges are those that may differ from
	// it. Empty: the ranges are those that hold data.
	BaseID     string
	SnapshotID string
	// Offset in bytes: ranges that end at or before it are left out, and one that begins before it
	// may be shortened.
	Offset Size
}

// BlockTracker is implemented by backends that can list the allocated and the changed blocks of
// their snapshots.
type BlockTracker interface {
	Snapshotter

	// Blocks calls each for every range, in ascending order and without overlaps, on the goroutine
	// of the call. It returns the error of each unchanged. Bytes outside of the ranges read as zeros
	// (without BaseID) or are the same in both snapshots. Kinds: NotFound, Invalid (the snapshots
	// are of different volumes), Precondition (they cannot be compared).
	Blocks(ctx context.Context, req BlocksRequest, each func(BlockRange) error) error
}

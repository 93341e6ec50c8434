package volume

import (
	"context"
	"slices"
	"time"
)

// This file holds the optional interface of backends that take snapshots of several volumes at one
// time.

// GroupSnapshot is a set of snapshots of several volumes, all taken at the same point of the stream
// of writes to them, as its backend read it.
type GroupSnapshot struct {
	ID        string
	Snapshots []Snapshot // one of each volume; their GroupID is ID
	Created   time.Time
}

// CheckMembers returns an error of kind Invalid unless ids are exactly the ids of the snapshots, in
// any order. Without ids it checks nothing: the caller does not know them.
func (g GroupSnapshot) CheckMembers(ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	var members []string
	for _, s := range g.Snapshots {
		members = append(members, s.ID)
	}
	slices.Sort(members)
	if !slices.Equal(slices.Compact(slices.Sorted(slices.Values(ids))), members) {
		return Errorf(KindInvalid, "the request names the snapshots %q, but group snapshot %s has %q", ids, g.ID, members)
	}
	return nil
}

// GroupSnapshotRequest describes a new group snapshot.
type GroupSnapshotRequest struct {
	Name       string   // idempotency key
	VolumeIDs  []string // sorted, without duplicates
	Parameters map[string]string
}

// GroupSnapshotter is implemented by backends that can take snapshots of several volumes which are
// consistent with each other: a write that began after another had ended is in them only together
// with that other one. The snapshots are also those of Snapshotter.
type GroupSnapshotter interface {
	Snapshotter

	// CreateGroupSnapshot takes a snapshot of every volume, or returns the group snapshot of that
	// name if it is of the same volumes. A failure leaves no snapshot behind, or leaves what the
	// next call removes. Kinds: NotFound (volume), AlreadyExists, Precondition (these volumes cannot
	// be snapshotted together), InProgress.
	CreateGroupSnapshot(ctx context.Context, req GroupSnapshotRequest) (GroupSnapshot, error)
	// DeleteGroupSnapshot removes a group snapshot with its snapshots. It succeeds for one that does
	// not exist. Kind Invalid: snapshotIDs are not its snapshots (GroupSnapshot.CheckMembers).
	DeleteGroupSnapshot(ctx context.Context, id string, snapshotIDs []string) error
	// GetGroupSnapshot reads a group snapshot. Kind NotFound, also if one of its snapshots no longer
	// exists.
	GetGroupSnapshot(ctx context.Context, id string) (GroupSnapshot, error)
}

package poll

import (
	"context"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// SnapshotReader is what AwaitSnapshot needs of a cloud.
type SnapshotReader interface {
	Snapshot(ctx context.Context, id string) (cloud.Snapshot, error)
}

// AwaitSnapshot reads a snapshot as long as it is in a state, and returns it as read last. Kinds:
// NotFound (the snapshot is gone), Deadline or Canceled (ctx ended). Snapshots are few beside
// volumes, so each wait reads for itself.
func AwaitSnapshot(ctx context.Context, api SnapshotReader, id, state string) (s cloud.Snapshot, err error) {
	err = Until(ctx, "snapshot", func() (string, bool, error) {
		s, err = api.Snapshot(ctx, id)
		return s.Status, err == nil && s.Status != state, err
	})
	return s, err
}

// Until calls read, with growing pauses, until read reports done or fails. object names
// what is read. When ctx ends first, the error (kind Deadline or Canceled) contains the
// last status that read returned.
func Until(ctx context.Context, object string, read func() (status string, done bool, err error)) error {
	seen := ""
	for pause := initialDelay; ; pause = min(pause*3/2, maxInterval) {
		status, done, err := read()
		if done || err != nil && (ctx.Err() == nil || seen == "") {
			return err
		}
		if err == nil {
			seen = status
			err = operation.Sleep(ctx, jitter(pause))
		}
		if err != nil {
			return volume.Errorf(volume.KindOf(err),
				"the time ran out while waiting for Cinder: the %s is still %s", object, seen).
				WithRemedy(message.Continues)
		}
	}
}

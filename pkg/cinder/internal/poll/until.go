package poll

import (
	"context"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// AwaitSnapshot waits until a snapshot is no longer in the given state, and returns it as read
// then. Kinds: NotFound (the snapshot is gone), Deadline or Canceled (ctx ended). The waits share
// no requests: snapshots are rare compared with volumes.
func AwaitSnapshot(ctx context.Context, api Reader, id, state string) (s cloud.Snapshot, err error) {
	err = Until(ctx, "snapshot", func() (string, bool, error) {
		s, err = api.Snapshot(ctx, id)
		return s.Status, err == nil && s.Status != state, err
	})
	return s, err
}

// Until calls read, with growing pauses, until read reports done or fails. object names what read
// reads, for the error when ctx ends first (kind Deadline or Canceled), which contains the last
// status that read returned.
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
				"timed out while waiting for Cinder: the %s still has the status %s", object, seen).
				WithRemedy(message.Continues)
		}
	}
}

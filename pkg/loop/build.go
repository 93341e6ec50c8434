package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// build creates an object; write writes its content. CSI callers give a call about ten
// seconds, which is too short to copy a large volume. So the creation continues after ctx
// has ended, at most for b.buildTimeout. It keeps the lease's locks (so that the source
// neither changes nor disappears) and the lock of the object's directory in pending, for
// which the next call waits. If the process ends, the next New removes the unfinished
// object. The error is of kind Deadline if the creation continues after the call, and
// errExists if the object exists.
func (b *Backend) build(
	ctx context.Context, lease *operation.Lease, o volumedir.Object, write func(ctx context.Context, data *os.File) error,
) error {
	pending := b.store.PendingPath(o.ID)
	unlock, err := b.store.lockPending(ctx, o.ID)
	if err != nil {
		return withSpaceKind(err, o.Size)
	}
	lease.Add(unlock)
	if err := b.takeFailure(o.ID); err != nil {
		err = fmt.Errorf("an earlier attempt, which continued after its call, failed: %w", err)
		return volume.Join(err, b.store.ops.removeAll(pending))
	}
	release, err := b.reserve(o.ID, o.Size)
	if err != nil {
		return volume.Join(err, b.store.ops.removeAll(pending))
	}
	lease.Add(release)
	what := "creating the " + o.Collection.Noun() + " " + o.ID
	_, err = operation.RunDetached(ctx, lease, what, func() (struct{}, error) {
		buildCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.buildTimeout)
		defer cancel()
		err := b.store.create(o, func(data *os.File) error { return write(buildCtx, data) })
		err = withSpaceKind(err, o.Size)
		if err != nil && ctx.Err() != nil && !errors.Is(err, errExists) {
			b.log.WarnContext(ctx, "a creation that continued after its call has failed", o.Collection.Noun(), o.ID, "error",
				err)
			b.failures.Store(o.ID, err)
		}
		return struct{}{}, err
	})
	return err
}

// defaultBuildTimeout bounds the creation of one object. A copy of 1 TB takes that long
// on a disk of 300 MB/s.
const defaultBuildTimeout = time.Hour

// takeFailure returns the error of a creation that failed after its call had ended, and
// forgets it. Without it a copy that fills the disk after a minute would start again with
// each retry, and no caller would see the reason.
func (b *Backend) takeFailure(id string) error {
	err, _ := b.failures.LoadAndDelete(id)
	failure, _ := err.(error)
	return failure
}

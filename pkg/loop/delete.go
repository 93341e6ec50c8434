package loop

import (
	"context"

	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// Delete implements volume.Backend: it deletes a volume that is neither attached nor
// connected.
func (b *Backend) Delete(ctx context.Context, id string) error {
	return volume.Wrap(b.remove(ctx, volumedir.Volumes, id, b.checkUnused), "delete", id)
}

// remove removes an object and what interrupted calls have left of it, if check allows
// the removal of the object.
func (b *Backend) remove(
	ctx context.Context, c volumedir.Collection, id string, check func(volumedir.Object) error,
) error {
	if !c.IsID(id) {
		return nil // this backend never created such an object
	}
	defer b.failures.Delete(id) // the deletion abandons a creation that failed
	for {
		o, unlock, err := b.store.Lock(ctx, c, id)
		switch {
		case err == nil:
			err = check(o)
			if err == nil {
				err = b.store.remove(ctx, c, id)
			}
			unlock()
			return err
		case !volume.IsKind(err, volume.KindNotFound):
			return err
		}
		if err := b.store.discardPending(ctx, id); err != nil {
			return err
		}
		// discardPending may have waited for a creation, which has finished now.
		if _, err := b.store.Load(c, id); volume.IsKind(err, volume.KindNotFound) {
			return nil
		}
	}
}

// checkUnused returns an error of kind Precondition if the volume is attached or
// connected.
func (b *Backend) checkUnused(o volumedir.Object) error {
	if a := o.Attachment; a != nil {
		return volume.Errorf(volume.KindPrecondition, "the volume is attached to node %s", a.Node).
			WithRemedy("delete the pods that use it, and wait until it is detached")
	}
	return b.checkNotConnected(o)
}

// checkNotConnected returns an error of kind Precondition if a loop device has the
// volume's file.
func (b *Backend) checkNotConnected(o volumedir.Object) error {
	devices, err := b.loops.Find(b.store.DataPath(o.Collection, o.ID))
	if err != nil {
		return err
	}
	if len(devices) > 0 {
		return volume.Errorf(volume.KindPrecondition, "the volume is still connected on node %s as %s",
			b.opts.Node, losetup.Paths(devices)).
			WithRemedy("delete the pods that use it, and wait until the node has unstaged it")
	}
	return nil
}

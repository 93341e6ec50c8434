package loop

import (
	"context"
	"errors"
	"os"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// Expand implements volume.Backend. The loop device of a connected volume keeps its
// size, as a cloud's disk does: the node has to read the new size (LOOP_SET_CAPACITY).
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	o, err := b.expand(ctx, id, target)
	if err != nil {
		return volume.Volume{}, volume.Wrap(err, "expand", id)
	}
	return b.volumeOf(o), nil
}

func (b *Backend) expand(ctx context.Context, id string, target volume.Size) (volumedir.Object, error) {
	o, unlock, err := b.store.Lock(ctx, volumedir.Volumes, id)
	if err != nil {
		return volumedir.Object{}, err
	}
	defer unlock()
	if o.Size >= target {
		return o, nil
	}
	size, err := volume.Range{Required: target}.Resolve(b.Limits())
	if err != nil {
		return volumedir.Object{}, err
	}
	release, err := b.reserve(id, size)
	if err != nil {
		return volumedir.Object{}, err
	}
	defer release()
	if err := b.extendFile(b.store.DataPath(volumedir.Volumes, id), size); err != nil {
		return volumedir.Object{}, withSpaceKind(err, size)
	}
	o, err = b.store.Load(volumedir.Volumes, id)
	if err == nil && o.Size < target {
		err = volume.Errorf(volume.KindInternal, "the file was extended to %s, but its size is still %s", size, o.Size)
	}
	return o, err
}

// extendFile makes a file longer. The caller holds the volume's lock and has read that
// the file is shorter than size.
func (b *Backend) extendFile(path string, size volume.Size) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = b.store.disk.truncate(f, size)
	if err == nil {
		err = b.store.disk.sync(f)
	}
	return errors.Join(err, f.Close())
}

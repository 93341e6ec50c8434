package loop

import (
	"context"
	"os"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// Expand implements volume.Backend. The loop device of a connected volume keeps its
// size, as a cloud's disk does: the node has to read the new size (LOOP_SET_CAPACITY).
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (v volume.Volume, err error) {
	defer func() { err = volume.Wrap(err, "expand", id) }()
	o, unlock, err := b.store.Lock(ctx, volumedir.Volumes, id)
	if err != nil {
		return volume.Volume{}, err
	}
	defer unlock()
	if o.Size >= target {
		return b.volumeOf(o), nil
	}
	size, err := volume.Range{Required: target}.Resolve(b.Limits())
	if err != nil {
		return volume.Volume{}, err
	}
	release, err := b.reserve(id, size)
	if err != nil {
		return volume.Volume{}, err
	}
	defer release()
	if err := b.extendFile(b.store.DataPath(volumedir.Volumes, id), size); err != nil {
		return volume.Volume{}, withSpaceKind(err, size)
	}
	o, err = b.store.Load(volumedir.Volumes, id)
	if err != nil {
		return volume.Volume{}, err
	}
	if o.Size < target {
		return volume.Volume{}, volume.Errorf(volume.KindInternal,
			"the file was extended to %s, but its size is still %s", size, o.Size)
	}
	return b.volumeOf(o), nil
}

// extendFile makes a file longer. The caller holds the volume's lock and has checked that
// the file is shorter than size: truncate would cut off a longer one.
func (b *Backend) extendFile(path string, size volume.Size) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = b.store.ops.truncate(f, size)
	if err == nil {
		err = b.store.ops.sync(f)
	}
	return volume.Join(err, f.Close())
}

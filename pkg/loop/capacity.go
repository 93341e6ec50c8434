package loop

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
)

// pool holds the sizes of objects that are being created or expanded, so that concurrent
// calls together cannot exceed Options.PoolSize.
type pool struct {
	mu       sync.Mutex
	reserved map[string]volume.Size // by id
}

// reserve reserves size for the object until release is called. The error is of kind
// OutOfRange if the pool does not have enough space.
func (b *Backend) reserve(id string, size volume.Size) (release func(), err error) {
	if b.opts.PoolSize == 0 {
		return func() {}, nil
	}
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	used, err := b.used(id)
	if err != nil {
		return nil, err
	}
	if free := b.opts.PoolSize - used; size > free {
		return nil, volume.Errorf(volume.KindOutOfRange,
			"the pool of %s has space for %s, not for %s", b.opts.PoolSize, max(free, 0), size).
			WithRemedy("delete volumes or snapshots, or request a smaller size")
	}
	if b.pool.reserved == nil {
		b.pool.reserved = make(map[string]volume.Size)
	}
	b.pool.reserved[id] = size
	return func() {
		b.pool.mu.Lock()
		defer b.pool.mu.Unlock()
		delete(b.pool.reserved, id)
	}, nil
}

// used returns the sum of the sizes of all objects except one, including those that are
// being created. The caller holds pool.mu.
func (b *Backend) used(except string) (volume.Size, error) {
	var sum volume.Size
	for id, size := range b.pool.reserved {
		if id != except {
			sum += size
		}
	}
	for _, c := range []volumedir.Collection{volumedir.Volumes, volumedir.Snapshots} {
		ids, err := b.store.ids(c)
		if err != nil {
			return 0, err
		}
		for _, id := range ids {
			if _, isReserved := b.pool.reserved[id]; isReserved || id == except {
				continue
			}
			st, err := os.Stat(b.store.DataPath(c, id))
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since store.ids
			}
			if err != nil {
				return 0, err
			}
			sum += volume.Size(st.Size())
		}
	}
	return sum, nil
}

// Capacity implements volume.CapacityReporter: the free space of the pool, but not more
// than that of the filesystem.
func (b *Backend) Capacity(_ context.Context, req volume.CapacityRequest) (c volume.Capacity, err error) {
	defer func() { err = volume.Wrap(err, "get capacity", "") }()
	if _, err := nodeParameters(req.Parameters); err != nil {
		return volume.Capacity{}, err
	}
	limits := b.Limits()
	c = volume.Capacity{MinVolumeSize: limits.Min, MaxVolumeSize: limits.Max}
	if !b.topology().IsWithin(req.Topology) {
		return c, nil
	}
	dir := b.store.CollectionPath(volumedir.Volumes)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return volume.Capacity{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	free := volume.Size(st.Bavail) * volume.Size(st.Bsize)
	if b.opts.PoolSize > 0 {
		b.pool.mu.Lock()
		defer b.pool.mu.Unlock()
		used, err := b.used("")
		if err != nil {
			return volume.Capacity{}, err
		}
		free = max(0, min(free, b.opts.PoolSize-used))
	}
	c.Available = free.RoundDown(granularity)
	return c, nil
}

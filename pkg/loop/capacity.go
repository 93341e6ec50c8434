package loop

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// pool remembers the sizes of objects that are being made or grown, so that
// calls at the same time cannot overdraw Options.PoolSize together.
type pool struct {
	mu       sync.Mutex
	reserved map[string]volume.Size
}

// reserve sets size aside for the object until release. It is an error of
// kind OutOfRange when the pool has no room for it.
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
		return nil, volume.Errorf(volume.KindOutOfRange, "the pool of %s has room for %s, not for %s", b.opts.PoolSize, max(free, 0), size).
			WithRemedy("delete volumes or snapshots, or ask for less")
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

// used sums up the sizes of all objects but one, those being made included.
// The caller holds pool.mu.
func (b *Backend) used(except string) (volume.Size, error) {
	var sum volume.Size
	for id, size := range b.pool.reserved {
		if id != except {
			sum += size
		}
	}
	for _, c := range []class{volumes, snapshots} {
		ids, err := b.store.ids(c)
		if err != nil {
			return 0, err
		}
		for _, id := range ids {
			if _, ok := b.pool.reserved[id]; ok || id == except {
				continue
			}
			st, err := os.Stat(b.store.data(c, id))
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return 0, err
			}
			sum += volume.Size(st.Size())
		}
	}
	return sum, nil
}

// Capacity implements volume.CapacityReporter: what is left of the pool, but
// not more than what is free on the filesystem.
func (b *Backend) Capacity(_ context.Context, req volume.CapacityRequest) (volume.Capacity, error) {
	if _, err := volumeContext(req.Parameters); err != nil {
		return volume.Capacity{}, volume.Wrap(err, "get capacity", "")
	}
	l := b.Limits()
	c := volume.Capacity{Min: l.Min, Max: l.Max}
	if !b.topology().IsWithin(req.Topology) {
		return c, nil
	}
	dir := filepath.Join(b.opts.Dir, string(volumes))
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return volume.Capacity{}, volume.Errorf(volume.KindInternal, "get capacity: %w", &os.PathError{Op: "statfs", Path: dir, Err: err})
	}
	c.Available = volume.Size(st.Bavail) * volume.Size(st.Bsize)
	if b.opts.PoolSize > 0 {
		b.pool.mu.Lock()
		defer b.pool.mu.Unlock()
		used, err := b.used("")
		if err != nil {
			return volume.Capacity{}, volume.Wrap(err, "get capacity", "")
		}
		c.Available = max(0, min(c.Available, b.opts.PoolSize-used))
	}
	c.Available = c.Available.RoundDown(granule)
	return c, nil
}

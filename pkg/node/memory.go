package node

import "sync"

// byVolume remembers a value per volume id, until the plugin ends. The zero
// value is ready to use.
type byVolume[T any] struct {
	mu     sync.Mutex
	values map[string]T
}

func (b *byVolume[T]) set(id string, value T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.values == nil {
		b.values = map[string]T{}
	}
	b.values[id] = value
}

// get returns the zero value for a volume of which nothing is remembered.
func (b *byVolume[T]) get(id string) T {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.values[id]
}

func (b *byVolume[T]) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.values, id)
}

package ceph

// Sparsifier is implemented by images whose space can be given back to the pool.
type Sparsifier interface {
	// Usage returns how many bytes the image itself occupies in the range, in bytes, without its
	// parent and its snapshots: of each object, from its beginning to the last byte that was
	// written. Replicas do not count.
	Usage(offset, length uint64) (uint64, error)
	// Sparsify deallocates the blocks of 4 KiB that hold zeros. The content does not change. It calls
	// goOn before each object, on another goroutine, and ends with ECANCELED when goOn returns false;
	// what was deallocated before stays so. It takes the lock of an image that has one.
	Sparsify(goOn func() bool) error
}

package volume

import "context"

// This file holds the optional interface of backends that can give space of a volume back while no
// node uses it.

// Reclaimed is the result of SpaceReclaimer.ReclaimSpace.
type Reclaimed struct {
	// Before and After are what the volume occupied in the storage system, in bytes, as read before
	// and after the work.
	Before, After Size
	// IsInUse: a node uses the volume, so nothing was done, and Before and After were not read.
	IsInUse bool
}

// SpaceReclaimer is implemented by backends that can deallocate blocks of a volume that hold zeros.
type SpaceReclaimer interface {
	// ReclaimSpace deallocates the blocks of the volume that hold zeros. It leaves a volume that is
	// in use alone. It ends early when ctx ends, and when another operation on the volume begins
	// (kind InProgress): what was deallocated before stays so. Kinds: NotFound, Unsupported (it
	// could gain nothing, or harm the volume), InProgress.
	ReclaimSpace(ctx context.Context, id string) (Reclaimed, error)
}

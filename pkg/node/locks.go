package node

import (
	"context"
	"errors"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// locks are the locks of the service, three for each volume. They are taken through the functions
// below, which return a lease: work that continues after its call keeps the locks of its lease, so
// that nothing else changes the volume during a growth.
//
// A call that needs both the volume's lock and its publish lock takes the volume's lock first; the
// holder of a publish lock never waits for a volume's lock.
type locks struct {
	// volumes are held by stage, unstage and growth, and by the publication of a raw device.
	volumes operation.Locks
	// publishes are held while a mount of the volume is made or removed. They are separate, so that
	// a pod starts while its volume grows.
	publishes operation.Locks
	// readings are held while statistics or health are read, so that at most one reading of each
	// volume hangs.
	readings operation.Locks
}

// lockVolume takes the volume's lock.
func (s *Server) lockVolume(ctx context.Context, id string) (*operation.Lease, error) {
	return lock(ctx, s.opts.Detached, id, &s.locks.volumes)
}

// lockPublish takes the publish lock of a volume.
func (s *Server) lockPublish(ctx context.Context, id string) (*operation.Lease, error) {
	return lock(ctx, s.opts.Detached, id, &s.locks.publishes)
}

// lockVolumeAndPublish takes the volume's lock, then its publish lock.
func (s *Server) lockVolumeAndPublish(ctx context.Context, id string) (*operation.Lease, error) {
	return lock(ctx, s.opts.Detached, id, &s.locks.volumes, &s.locks.publishes)
}

// lockReading takes the lock of readings of a volume. The plugin does not wait for a reading that
// continues after its call before it exits: the reading leaves nothing behind.
func (s *Server) lockReading(ctx context.Context, id string) (*operation.Lease, error) {
	return lock(ctx, nil, id, &s.locks.readings)
}

// lock takes the locks of all in their order. The error has kind Deadline, not InProgress: kubelet
// treats ABORTED as final.
func lock(
	ctx context.Context, tracker *operation.Tracker, id string, all ...*operation.Locks,
) (*operation.Lease, error) {
	lease := tracker.NewLease(id, nil)
	for _, l := range all {
		unlock, err := l.Lock(ctx, id)
		if err != nil {
			lease.Release()
			if e, ok := errors.AsType[*volume.Error](err); ok {
				c := *e
				c.Kind, c.ID = volume.KindDeadline, ""
				err = &c
			}
			return nil, err
		}
		lease.Add(unlock)
	}
	return lease, nil
}

package node

import (
	"context"
	"errors"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/volume"
)

// locks are the locks of the service, by volume id. A call that needs both the
// volume's lock and its publish lock takes the volume's first, by lockBoth or
// by lockPublish of the volumeLock that it has: the publish lock has no way to
// the other one, so the order cannot be turned round.
type locks struct {
	volumes   operation.Locks
	publishes operation.Locks
	stats     operation.Locks
}

// volumeLock is the lock of one volume, which is held by stage, unstage and
// growth, and by the publication of a raw device: what disturbs a growth, a
// format or a check waits for it, also where these outlive their call.
type volumeLock struct {
	server *Server
	id     string
	unlock func()
}

// lockVolume takes the volume's lock.
func (s *Server) lockVolume(ctx context.Context, id string) (volumeLock, error) {
	unlock, err := take(ctx, &s.locks.volumes, id)
	return volumeLock{server: s, id: id, unlock: unlock}, err
}

// lockPublish takes the publish lock as well, under which mounts of the volume
// are made and taken away. The caller releases it before the volume's.
func (l volumeLock) lockPublish(ctx context.Context) (unlock func(), err error) {
	return l.server.lockPublish(ctx, l.id)
}

// lockPublish takes the publish lock alone, so that a pod starts or goes while
// the volume grows. Who holds it must not wait for the volume's lock.
func (s *Server) lockPublish(ctx context.Context, id string) (unlock func(), err error) {
	return take(ctx, &s.locks.publishes, id)
}

// lockBoth takes the volume's lock and then its publish lock.
func (s *Server) lockBoth(ctx context.Context, id string) (unlock func(), err error) {
	l, err := s.lockVolume(ctx, id)
	if err != nil {
		return nil, err
	}
	publish, err := l.lockPublish(ctx)
	if err != nil {
		l.unlock()
		return nil, err
	}
	return func() {
		publish()
		l.unlock()
	}, nil
}

// lockStats takes the lock that keeps the readings that hang to one a volume.
func (s *Server) lockStats(ctx context.Context, id string) (unlock func(), err error) {
	return take(ctx, &s.locks.stats, id)
}

// take takes one lock. A lock that is not had in time is a deadline on a node:
// kubelet would take ABORTED as the final word.
func take(ctx context.Context, locks *operation.Locks, id string) (unlock func(), err error) {
	unlock, err = locks.Lock(ctx, id)
	var e *volume.Error
	if errors.As(err, &e) {
		c := *e
		c.Kind, c.ID = volume.KindDeadline, ""
		return nil, &c
	}
	return unlock, err
}

package rbd

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds how calls of Ceph are run: detached from the RPC, with locks, on a shared
// connection that is made again when it was fenced.

// task describes a sequence of calls on one cluster.
type task struct {
	what    string   // for messages: "expanding the volume"
	id      string   // of the volume or snapshot, for Options.Detached
	cluster string   // id in the configuration
	pools   []string // that the calls use, as far as the request tells; none: any, or monitors only
	locks   []string // handles of the volumes (and other keys) that no other task may use meanwhile
	isLong  bool     // may run for hours; see maxLongTasks
}

// session is what a task works with: one cluster, until the task ends.
type session struct {
	*Backend

	task    task
	cluster ceph.Cluster
	config  cluster.Cluster
}

// run runs work, a sequence of calls on a cluster that may have to be repeated: if the cluster
// answers that it has fenced this client (ESHUTDOWN), run connects again and repeats work once. The
// context of work does not end. If ctx ends first, work continues with its locks, and the error
// (kind Deadline or Canceled) names it; the retry waits for the locks. An error of Ceph that has no
// kind yet gets that of errors.go. Kinds: InProgress (the locks), Unavailable (slots.take).
func run[T any](ctx context.Context, b *Backend, t task, work func(context.Context, *session) (T, error)) (T, error) {
	var zero T
	// Before the locks, which another task of the volume may need meanwhile.
	freeLong, err := b.slots.takeLong(ctx, t)
	if err != nil {
		return zero, err
	}
	unlock, _, err := b.locks.LockWithSource(ctx, "", t.locks...)
	if err != nil {
		freeLong()
		return zero, err
	}
	lease := b.opts.Detached.NewLease(t.id, unlock)
	defer lease.Release()
	lease.Add(freeLong)
	free, err := b.slots.take(ctx, t)
	if err != nil {
		return zero, err
	}
	lease.Add(free)
	return operation.RunDetached(ctx, lease, t.what, func() (T, error) {
		inner := context.WithoutCancel(ctx)
		out, err := runOnce(inner, b, t, work)
		if errors.Is(err, unix.ESHUTDOWN) {
			b.log.WarnContext(inner, "the cluster has fenced this client; connecting again", "cluster", t.cluster)
			out, err = runOnce(inner, b, t, work)
		}
		return out, err
	})
}

// runOnce runs work on the present connection.
func runOnce[T any](
	ctx context.Context, b *Backend, t task, work func(context.Context, *session) (T, error),
) (T, error) {
	var zero T
	config, err := b.readCluster(ctx, t.cluster)
	if err != nil {
		return zero, err
	}
	c, err := b.connections.Acquire(config)
	if err != nil {
		return zero, connectError(err, config)
	}
	defer c.Release()
	s := &session{Backend: b, task: t, cluster: c, config: config}
	out, err := work(ctx, s)
	if errors.Is(err, unix.ESHUTDOWN) {
		c.Discard()
	}
	return out, s.withKind(err)
}

// readCluster returns the configuration of a cluster, with the credentials of the secrets of the
// request if it has some.
func (b *Backend) readCluster(ctx context.Context, id string) (cluster.Cluster, error) {
	c, err := b.opts.Clusters.Read(id)
	if err != nil {
		return c, clusterError(err, id)
	}
	return c.WithSecrets(volume.SecretsFrom(ctx))
}

// clusterError is the error for a cluster whose configuration cannot be read. Its kind is neither
// NotFound, which would mean that a volume of the cluster does not exist, nor Invalid, after which
// Kubernetes does not expand a claim any more.
func clusterError(err error, id string) error {
	return volume.Errorf(volume.KindUnavailable, "cannot read the configuration of cluster %s: %w", id, err)
}

// pool opens a pool, or a namespace of it.
func (s *session) pool(l rbdcsi.Location) (ceph.Pool, error) {
	p, err := s.cluster.Pool(l.Pool, l.Namespace)
	if errors.Is(err, unix.ENOENT) {
		return nil, poolMissingError(l, err)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open pool %s of cluster %s: %w", l.Pool, l.Cluster, err)
	}
	return p, nil
}

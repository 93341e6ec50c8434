package rbd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds whether the backend works, and the defects of volumes.

// Reasons of conditions.
const (
	reasonPoolFull         = "PoolFull"
	reasonPoolNearFull     = "PoolNearFull"
	reasonObjectMapInvalid = "ObjectMapInvalid"
	reasonMigrating        = "Migrating"
)

// featureMigrating is the feature of an image between `rbd migration prepare` and `commit`.
const featureMigrating = "migrating"

// flagNearFull is a flag of a pool whose storage is nearly full.
const flagNearFull = "nearfull"

// CheckHealth implements volume.HealthChecker: it succeeds if the configuration can be read and one
// of its clusters has answered once. Afterwards it sends no request: an outage of Ceph is no reason
// to restart the driver. Kind InProgress: no cluster has answered yet.
func (b *Backend) CheckHealth(ctx context.Context) error {
	ids, err := b.opts.Clusters.IDs()
	if err != nil {
		return volume.Wrap(err, "read the configuration of the clusters", "")
	}
	if b.hasAnswered.Load() {
		return nil
	}
	err = volume.Errorf(volume.KindInProgress, "the configuration has no cluster").
		WithRemedy("add a cluster to the configuration")
	for _, id := range ids {
		_, err = operation.AwaitExclusive(ctx, &b.locks, "health of "+id, func() (struct{}, error) {
			return struct{}{}, b.checkCluster(context.WithoutCancel(ctx), id)
		})
		if err == nil {
			b.hasAnswered.Store(true)
			return nil
		}
	}
	return volume.Errorf(volume.KindInProgress, "no Ceph cluster has answered yet: %w", err)
}

func (b *Backend) checkCluster(ctx context.Context, id string) error {
	_, err := runOnce(ctx, b, task{what: "checking the cluster", cluster: id},
		func(_ context.Context, s *session) (struct{}, error) { return struct{}{}, s.cluster.Health() })
	return err
}

// Health implements volume.HealthReporter. Kind NotFound: the cluster says that the image does not
// exist.
func (b *Backend) Health(ctx context.Context, id string) ([]volume.Condition, error) {
	t, err := volumeTask(id, "checking the volume")
	if err != nil {
		return nil, volume.Wrap(err, "check volume", id)
	}
	t.locks = []string{"health of " + id} // it changes nothing, and must not wait for an expansion
	conditions, err := run(ctx, b, t, func(ctx context.Context, s *session) ([]volume.Condition, error) {
		im, err := s.resolve(id)
		if err != nil {
			return nil, err
		}
		return s.health(ctx, im)
	})
	return conditions, volume.Wrap(err, "check volume", id)
}

func (s *session) health(ctx context.Context, t target) ([]volume.Condition, error) {
	im, err := t.open(true)
	if err != nil {
		return nil, err
	}
	defer s.closeImage(ctx, im)
	info, err := im.Info()
	if err != nil {
		return nil, fmt.Errorf("cannot read image %s: %w", t.handle, err)
	}
	return s.conditions(t, info, make(map[string]ceph.PoolUsage))
}

// ListHealth implements volume.HealthLister for the volumes that ListVolumes lists.
func (b *Backend) ListHealth(ctx context.Context, page volume.Page) ([]volume.Health, string, error) {
	usages := make(map[string]ceph.PoolUsage) // read once for a page
	accept := func(s *session, e *entry) (bool, error) {
		var err error
		e.conditions, err = s.conditions(e.target, e.info, usages)
		return len(e.conditions) > 0, err
	}
	entries, next, err := volumeWalk("checking the volumes", accept).list(ctx, b, page)
	if err != nil {
		return nil, "", volume.Wrap(err, "check volumes", "")
	}
	var impaired []volume.Health
	for _, e := range entries {
		impaired = append(impaired, volume.Health{ID: e.volume.ID, Conditions: e.conditions})
	}
	return impaired, next, nil
}

// conditions returns the defects of an image that was just read. usages has the space of the pools
// that were read before, by cluster and name.
func (s *session) conditions(
	t target, info ceph.ImageInfo, usages map[string]ceph.PoolUsage,
) ([]volume.Condition, error) {
	var conditions []volume.Condition
	if info.IsObjectMapInvalid {
		conditions = append(conditions, volume.Condition{
			Impairment: volume.ImpairmentDegraded, Reason: reasonObjectMapInvalid,
			Message: fmt.Sprintf("the object map of image %s is invalid, because a resize was interrupted "+
				"(next step: %s)", t.handle, t.rebuildRemedy()),
		})
	}
	if slices.Contains(info.Features, featureMigrating) {
		conditions = append(conditions, volume.Condition{
			Impairment: volume.ImpairmentDegraded, Reason: reasonMigrating,
			Message: fmt.Sprintf("image %s is being migrated (next step: %s)", t.handle, t.migrationRemedy()),
		})
	}
	pools := []string{t.handle.Pool}
	if info.DataPool != "" {
		pools = append(pools, info.DataPool)
	}
	for _, pool := range pools {
		key := t.handle.Cluster + "/" + pool
		usage, ok := usages[key]
		if !ok {
			var err error
			if usage, err = s.poolUsage(t.handle.Cluster, pool); err != nil {
				return nil, err
			}
			usages[key] = usage
		}
		if c, ok := poolCondition(pool, usage); ok {
			return append(conditions, c), nil
		}
	}
	return conditions, nil
}

// poolCondition returns the defect of the volumes of a pool; false: none.
func poolCondition(pool string, usage ceph.PoolUsage) (volume.Condition, bool) {
	c := volume.Condition{Impairment: volume.ImpairmentDegraded}
	switch {
	case usage.IsFull:
		c.Reason = reasonPoolFull
		c.Message = fmt.Sprintf("pool %s is full (%s): writes of the volume wait (next step: add space, "+
			"or raise the quota: ceph df; ceph osd pool get-quota %s)", pool, strings.Join(usage.Flags, ", "), pool)
	case slices.Contains(usage.Flags, flagNearFull):
		c.Reason = reasonPoolNearFull
		c.Message = fmt.Sprintf("pool %s is nearly full: %s left (next step: add space: ceph df)",
			pool, available(usage))
	default:
		return c, false
	}
	return c, true
}

// rebuildRemedy is the next step for an image with an invalid object map.
func (t target) rebuildRemedy() string { return "run rbd object-map rebuild " + t.spec() }

// migrationRemedy is the next step for an image that is being migrated.
func (t target) migrationRemedy() string {
	return fmt.Sprintf("complete the migration: rbd migration execute %[1]s && rbd migration commit %[1]s", t.spec())
}

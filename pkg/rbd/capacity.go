package rbd

import (
	"context"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/class"
	"github.com/growvol/growvol/pkg/volume"
)

// Capacity implements volume.CapacityReporter: what the monitors say that the pools of the class
// can still store, and at most what their quotas leave. For a class with data pools these count,
// because they hold the content. The capacity is zero if the topology reaches no pool, and without
// parameters: no volume can be made without a cluster and a pool. Images are thin: a volume may be
// larger than the capacity.
func (b *Backend) Capacity(ctx context.Context, req volume.CapacityRequest) (volume.Capacity, error) {
	if len(req.Parameters) == 0 {
		return volume.Capacity{MinVolumeSize: granularity}, nil
	}
	c, err := class.ParseStorage(req.Parameters)
	if err != nil {
		return volume.Capacity{}, volume.Wrap(err, "read the capacity", "")
	}
	// One call for each cluster at a time, so that a cluster that does not answer costs one thread.
	t := task{what: "reading the capacity", cluster: c.Cluster, locks: []string{"capacity of " + c.Cluster}}
	capacity, err := run(ctx, b, t, func(_ context.Context, s *session) (volume.Capacity, error) {
		return s.capacity(c, req.Topology)
	})
	return capacity, volume.Wrap(err, "read the capacity", "")
}

func (s *session) capacity(c class.Storage, topology volume.Topology) (volume.Capacity, error) {
	sum := volume.Capacity{MinVolumeSize: granularity}
	hasMaximum := true
	for _, pool := range c.Pools {
		if len(topology) > 0 && !topology.IsWithin(pool.Topology) {
			continue
		}
		name := pool.Name
		if pool.DataPool != "" {
			name = pool.DataPool
		}
		usage, err := s.poolUsage(c.Cluster, name)
		if err != nil {
			return volume.Capacity{}, err
		}
		sum.Available += available(usage).RoundDown(granularity)
		sum.MaxVolumeSize = max(sum.MaxVolumeSize, volume.Size(usage.QuotaBytes).RoundDown(granularity))
		hasMaximum = hasMaximum && usage.QuotaBytes > 0
	}
	if !hasMaximum {
		sum.MaxVolumeSize = 0
	}
	return sum, nil
}

// available returns the bytes that a pool can still store.
func available(usage ceph.PoolUsage) volume.Size {
	if usage.IsFull {
		return 0
	}
	free := usage.MaxAvail
	if usage.QuotaBytes > 0 {
		left := uint64(0)
		if usage.Stored < usage.QuotaBytes {
			left = usage.QuotaBytes - usage.Stored
		}
		free = min(free, left)
	}
	return volume.Size(free)
}

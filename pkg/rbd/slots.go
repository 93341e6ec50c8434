package rbd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file bounds how many tasks run at once. Each occupies a thread of librbd while Ceph answers,
// which costs 150 KB.

// A pool with inactive placement groups lets each call wait for 45 s. So its tasks occupy a part
// only of the places of its cluster, and those of other pools go on.
const (
	// maxPoolTasks bounds the tasks that use the same pools of one cluster. More do not make 100
	// expansions at once faster.
	maxPoolTasks = 8
	// maxClusterTasks bounds the tasks of one cluster: while two pools hang, others have places.
	maxClusterTasks = 3 * maxPoolTasks
	// maxLongTasks bounds those tasks of one cluster that may run for hours: a schedule of csi-addons
	// reclaims the space of all volumes at the same minute.
	maxLongTasks = 2
)

// slots are the places for tasks. newSlots makes them.
type slots struct {
	tasks *prometheus.GaugeVec // by cluster and pools

	mu       sync.Mutex
	pools    map[poolsOfCluster]chan struct{} // guarded by mu
	clusters map[string]chan struct{}         // by cluster; guarded by mu
	long     map[string]chan struct{}         // of long tasks, by cluster; guarded by mu
}

// poolsOfCluster are the pools of a task, which share its places.
type poolsOfCluster struct {
	cluster string
	pools   string // sorted, with commas between them; empty: the task concerns no pool more than others
}

func (p poolsOfCluster) String() string {
	if p.pools == "" {
		return "cluster " + p.cluster
	}
	return "pool " + p.pools + " of cluster " + p.cluster
}

func newSlots(tasks *prometheus.GaugeVec) *slots {
	return &slots{
		tasks: tasks, pools: make(map[poolsOfCluster]chan struct{}), clusters: make(map[string]chan struct{}),
		long: make(map[string]chan struct{}),
	}
}

// take waits for a free place among those of the pools of the task, then for one of its cluster.
// Kind Unavailable: ctx ended first.
func (s *slots) take(ctx context.Context, t task) (free func(), err error) {
	key := poolsOfCluster{t.cluster, strings.Join(slices.Compact(slices.Sorted(slices.Values(t.pools))), ",")}
	s.mu.Lock()
	pool := slotsOf(s.pools, key, maxPoolTasks)
	cluster := slotsOf(s.clusters, t.cluster, maxClusterTasks)
	s.mu.Unlock()
	if err := occupy(ctx, pool, key.String()); err != nil {
		return nil, err
	}
	if err := occupy(ctx, cluster, "cluster "+t.cluster); err != nil {
		<-pool
		return nil, err
	}
	gauge := s.tasks.WithLabelValues(key.cluster, key.pools)
	gauge.Inc()
	return func() { <-cluster; <-pool; gauge.Dec() }, nil
}

// takeLong waits for a place of the tasks that may run for hours, if t is one. It needs the place
// of take, too. Kind Unavailable: ctx ended first.
func (s *slots) takeLong(ctx context.Context, t task) (free func(), err error) {
	if !t.isLong {
		return func() {}, nil
	}
	s.mu.Lock()
	long := slotsOf(s.long, t.cluster, maxLongTasks)
	s.mu.Unlock()
	if err := occupy(ctx, long, "cluster "+t.cluster+" that may run for hours"); err != nil {
		return nil, err
	}
	return func() { <-long }, nil
}

// slotsOf returns the places of a key, and makes them if necessary.
func slotsOf[K comparable](all map[K]chan struct{}, key K, places int) chan struct{} {
	if all[key] == nil {
		all[key] = make(chan struct{}, places)
	}
	return all[key]
}

// occupy waits for a free place. Kind Unavailable: ctx ended first.
func occupy(ctx context.Context, places chan struct{}, of string) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return volume.Errorf(volume.KindUnavailable,
			"%d operations on %s have not ended: %w", cap(places), of, context.Cause(ctx)).
			WithRemedy(retryRemedy + "; if it lasts, check the cluster: ceph health detail")
	}
}

// poolsOf returns the pools in handles of volumes and snapshots. Those of ceph-csi have the id of
// the pool in place of its name: a pool with volumes of both drivers has places for either.
func poolsOf(handles ...string) []string {
	var all []string
	for _, handle := range handles {
		if h, ok := rbdcsi.ParseCephCSIHandle(handle); ok {
			all = append(all, fmt.Sprintf("id %d", h.PoolID))
		} else if h, err := rbdcsi.ParseSnapshotHandle(handle); err == nil {
			all = append(all, h.Pool)
		} else if h, err := rbdcsi.ParseVolumeHandle(handle); err == nil {
			all = append(all, h.Pool)
		}
	}
	return all
}

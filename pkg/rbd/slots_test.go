package rbd

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests that pools and clusters which do not answer leave places for the others.

// fillSlots reads volumes of the pool "a/POOL" until as many reads hang.
func (r *rig) fillSlots(t *testing.T, pool string, reads int) {
	t.Helper()
	for all := len(r.tracker.List()) + reads; len(r.tracker.List()) < all; {
		id := "a/" + pool + "/" + strings.Repeat("x", 1+len(r.tracker.List()))
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, _ = r.Get(short, id)
		cancel()
	}
}

// wantAnswer fails the test unless the cluster says that there is no such volume.
func (r *rig) wantAnswer(t *testing.T, id string) {
	t.Helper()
	_, err := r.Get(t.Context(), id)
	volumetest.WantKind(t, err, volume.KindNotFound)
}

// wantTasks fails the test unless the metric has these values, by the labels cluster and pools.
func wantTasks(t *testing.T, registry *prometheus.Registry, want map[[2]string]float64) {
	t.Helper()
	families, err := registry.Gather()
	check(t, err)
	for _, m := range families[0].GetMetric() {
		labels := [2]string{m.GetLabel()[0].GetValue(), m.GetLabel()[1].GetValue()}
		if got := m.GetGauge().GetValue(); got != want[labels] {
			t.Errorf("the metric %s of %v counts %v tasks, want %v", families[0].GetName(), labels, got, want[labels])
		}
		delete(want, labels)
	}
	if len(want) > 0 {
		t.Errorf("the metric %s has no series of %v", families[0].GetName(), want)
	}
}

func TestTasksOfAHungPoolAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		source := r.create(t, request("pvc-1", "pool", "other"))
		registry := prometheus.NewRegistry()
		b, err := New(t.Context(), Options{
			Clusters: r.config, Dialer: fakeceph.Dialer{"a": r.server}, Detached: r.tracker, Registerer: registry,
		})
		check(t, err)
		r.Backend = b
		r.wantAnswer(t, "a/volumes/x") // it has connected
		hang := make(chan struct{})
		defer close(hang)
		entered := make(chan struct{}, maxPoolTasks)
		r.server.Inject(fakeceph.Fault{Wait: hang, Entered: entered})
		r.fillSlots(t, "volumes", maxPoolTasks)
		for range maxPoolTasks {
			<-entered
		}
		r.server.ClearFaults() // calls that have begun hang on
		for _, id := range []string{"a/volumes/one-more", "a/volumes/tenant/one-more"} {
			_, err = r.Get(shortContext(t), id)
			volumetest.WantKind(t, err, volume.KindUnavailable,
				"8 operations on pool volumes of cluster a", "ceph health detail")
		}
		_, err = r.Create(shortContext(t), request("pvc-2"))
		volumetest.WantKind(t, err, volume.KindUnavailable, "pool volumes of cluster a")
		r.wantAnswer(t, "a/other/x")
		r.create(t, request("pvc-3", "pool", "other"))
		clone := request("pvc-4")
		clone.Source.VolumeID = source.ID
		if _, err := r.createCopy(t, clone); err != nil {
			t.Errorf("a copy between two pools: %v", err)
		}
		if _, _, err := r.ListVolumes(t.Context(), volume.Page{}); err != nil {
			t.Error(err)
		}
		wantTasks(t, registry, map[[2]string]float64{
			{"a", "volumes"}: maxPoolTasks, {"a", "other"}: 0, {"a", "other,volumes"}: 0, {"a", ""}: 0,
		})
	})
}

func TestTasksOfAHungClusterAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		other := fakeceph.New("f5c1-b", "volumes")
		config := r.config["a"]
		config.ID = "b"
		r.config["b"] = config
		b, err := New(t.Context(), Options{
			Clusters: r.config, Dialer: fakeceph.Dialer{"a": r.server, "b": other}, Detached: r.tracker,
		})
		check(t, err)
		r.Backend = b
		hang := make(chan struct{})
		defer close(hang)
		r.server.Inject(fakeceph.Fault{Call: "Connect", Wait: hang})
		for _, pool := range []string{"volumes", "other", "ecdata"} {
			r.fillSlots(t, pool, maxPoolTasks)
		}
		_, err = r.Get(shortContext(t), "a/fourth/x")
		volumetest.WantKind(t, err, volume.KindUnavailable, "24 operations on cluster a have", "ceph health detail")
		r.wantAnswer(t, "b/volumes/x")
	})
}

func TestPoolsOfHandles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for handle, want := range map[string]string{
			"a/rbd/image":             "rbd",
			"a/rbd/tenant/image":      "rbd",
			"a/rbd/image@snapshot":    "rbd",
			"a/rbd/id:10226b8b4567@4": "rbd",
			"a/rbd/group:0123":        "rbd",
			"0001-0001-a-0000000000000007-1a2b3c4d-0000-0000-0000-000000000000": "id 7",
			"pvc-1": "",
		} {
			if got := strings.Join(poolsOf(handle), " "); got != want {
				t.Errorf("%s: got pool %q, want %q", handle, got, want)
			}
		}
	})
}

package rbd

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds what the tests of the package share: a backend on clusters in memory.

// rig is a backend on the fake cluster "a" with the pools volumes, other and ecdata.
type rig struct {
	*Backend

	server  *fakeceph.Server
	config  testClusters
	tracker *operation.Tracker
}

const testKey = "AQBVtest"

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{server: fakeceph.New("f5c1-a", "volumes", "other", "ecdata"), tracker: new(operation.Tracker)}
	r.config = testClusters{"a": {ID: "a", Monitors: []string{"10.77.0.1:6789"}, User: "csi", Key: testKey}}
	r.Backend = r.newBackend(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if left := r.tracker.Wait(ctx); left != nil {
			t.Errorf("tasks are still running: %v", left)
		}
	})
	return r
}

// newBackend returns a second backend on the same cluster, as after a restart of the controller.
func (r *rig) newBackend(t *testing.T) *Backend {
	t.Helper()
	b, err := New(t.Context(), Options{
		Clusters: r.config, Dialer: fakeceph.Dialer{"a": r.server}, Detached: r.tracker, Topology: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// testClusters is the configuration of clusters, by id.
type testClusters map[string]cluster.Cluster

func (c testClusters) IDs() ([]string, error) { return slices.Sorted(maps.Keys(c)), nil }

func (c testClusters) Read(id string) (cluster.Cluster, error) {
	if found, ok := c[id]; ok {
		return found, nil
	}
	return cluster.Cluster{}, volume.Errorf(volume.KindInvalid, "the configuration has no cluster %q", id)
}

// request returns a request for a volume of 1 GiB in the pool volumes. Changes are pairs of a key
// and a value of the StorageClass; an empty value removes the key.
func request(name string, changes ...string) volume.CreateRequest {
	parameters := map[string]string{"clusterID": "a", "pool": "volumes"}
	for i := 0; i < len(changes); i += 2 {
		parameters[changes[i]] = changes[i+1]
		if changes[i+1] == "" {
			delete(parameters, changes[i])
		}
	}
	return volume.CreateRequest{
		Name: name, Size: volume.GiB, Range: volume.Range{Required: volume.GiB}, Parameters: parameters,
		Accesses: []volume.Access{{Mode: volume.AccessSingleNodeWriter, FSType: "ext4"}},
	}
}

// find is Find for a request that must find a volume.
func (r *rig) find(t *testing.T, req volume.CreateRequest) volume.Volume {
	t.Helper()
	v, found, err := r.Find(t.Context(), req)
	if err != nil || !found {
		t.Fatalf("found %t, %v", found, err)
	}
	return v
}

// create creates a volume as package controller does.
func (r *rig) create(t *testing.T, req volume.CreateRequest) volume.Volume {
	t.Helper()
	if _, _, err := r.Find(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	v, err := r.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// testPool opens a pool as an administrator does.
func (r *rig) testPool(t *testing.T, name, namespace string) ceph.Pool {
	t.Helper()
	c, err := fakeceph.Dialer{"a": r.server}.Connect(r.config["a"])
	check(t, err)
	t.Cleanup(c.Close)
	pool, err := c.Pool(name, namespace)
	check(t, err)
	return pool
}

// check ends the test if a step of its preparation fails.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantSize fails the test unless the cluster has the volume with that size.
func (r *rig) wantSize(t *testing.T, id string, want volume.Size) {
	t.Helper()
	v, err := r.Get(t.Context(), id)
	if err != nil || v.Size != want {
		t.Errorf("%s: got %s (%v), want %s", id, v.Size, err, want)
	}
}

// shortContext returns a context that has ended soon, for calls that hang.
func shortContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

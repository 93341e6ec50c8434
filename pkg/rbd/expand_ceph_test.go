//go:build ceph

package rbd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// This file tests creations and expansions on a real cluster, that of tests/ceph.

// realCluster is the id of the cluster in the configuration of tests/ceph.
const realCluster = "rig"

// cephRig is a backend on a real cluster, whose administrator runs programs of Ceph.
type cephRig struct {
	*Backend

	dir    string
	prefix string // of the images of the test
}

// newCephRig skips the test unless there is a rig.
func newCephRig(t *testing.T) *cephRig {
	t.Helper()
	r := &cephRig{prefix: shortName(t) + "-"}
	r.Backend, r.dir = newRealRig(t)
	t.Cleanup(func() { r.removeAll(t) })
	r.removeAll(t) // what a test that was killed has left
	return r
}

func (r *cephRig) removeAll(t *testing.T) {
	t.Helper()
	for _, name := range strings.Fields(r.run(t, "rbd", "ls", "volumes")) {
		if strings.HasPrefix(name, r.prefix) {
			if err := r.Delete(context.Background(), realCluster+"/volumes/"+name); err != nil {
				t.Error(err)
			}
		}
	}
}

// run runs a program of Ceph as the administrator and returns its output.
func (r *cephRig) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	args = append([]string{"-c", filepath.Join(r.dir, "ceph.conf"), "--name", "client.admin"}, args...)
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return strings.TrimSpace(string(out))
}

// shortName returns the name of the test, short enough for the prefix of images.
func shortName(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "TestOnCeph"))
	return name[:min(len(name), 24)]
}

// request returns a request for a volume of 1 GiB whose image has the prefix of the test.
func (r *cephRig) request(name string, changes ...string) volume.CreateRequest {
	return request(name, append([]string{"clusterID", realCluster, "volumeNamePrefix", r.prefix}, changes...)...)
}

// create creates a volume as package controller does.
func (r *cephRig) create(t *testing.T, req volume.CreateRequest) volume.Volume {
	t.Helper()
	_, _, err := r.Find(t.Context(), req)
	check(t, err)
	v, err := r.Create(t.Context(), req)
	check(t, err)
	return v
}

// Each limit is the measured number: a larger one would make every call more expensive.
func TestOnCephOperations(t *testing.T) {
	r := newCephRig(t)
	r.create(t, r.request("first")) // connects
	for features, limits := range map[string][3]int{"layering": {12, 6, 6}, "": {12, 6, 6}} {
		v := volume.Volume{}
		req := r.request("ops"+features, "imageFeatures", features)
		for i, step := range []struct {
			name string
			run  func()
		}{
			{"create", func() { v = r.create(t, req) }},
			{"repeated create", func() { v = r.create(t, req) }},
			{"expand", func() {
				_, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
				check(t, err)
			}},
		} {
			before := osdOperations(t, r.dir)
			began := time.Now()
			step.run()
			took := time.Since(began)
			ops := osdOperations(t, r.dir) - before
			t.Logf("features %q: %s: %d operations, %s", features, step.name, ops, took)
			if ops > limits[i] {
				t.Errorf("features %q: %s: %d operations, want at most %d", features, step.name, ops, limits[i])
			}
		}
	}
}

func TestOnCephRepeatedExpansions(t *testing.T) {
	r := newCephRig(t)
	v := r.create(t, r.request("x"))
	var all []time.Duration
	for i := range 25 {
		began := time.Now()
		got, err := r.Expand(t.Context(), v.ID, volume.GiB+volume.Size(i+1)*4*volume.MiB)
		all = append(all, time.Since(began))
		if err != nil || got.Size != volume.GiB+volume.Size(i+1)*4*volume.MiB {
			t.Fatalf("got %s, %v", got.Size, err)
		}
	}
	slices.Sort(all)
	t.Logf("median %s, slowest %s", all[len(all)/2], all[len(all)-1])
	if limit := 40 * time.Millisecond; all[len(all)/2] > limit {
		t.Logf("the median is above the goal of %s, which holds for a machine that is not loaded", limit)
	}
}

func TestOnCephHundredExpansionsAtOnce(t *testing.T) {
	r := newCephRig(t)
	var ids []string
	for i := range 100 {
		req := r.request(fmt.Sprint(i))
		req.Size, req.Range.Required = 16*volume.MiB, 16*volume.MiB // their removal takes time by their size
		ids = append(ids, r.create(t, req).ID)
	}
	began := time.Now()
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if v, err := r.Expand(t.Context(), id, 32*volume.MiB); err != nil || v.Size != 32*volume.MiB {
				t.Errorf("%s: got %s, %v", id, v.Size, err)
			}
		})
	}
	all.Wait()
	t.Logf("100 expansions took %s", time.Since(began))
	got := 0
	token := ""
	for {
		volumes, next, err := r.ListVolumes(t.Context(), volume.Page{Token: token, Max: 30})
		check(t, err)
		for _, v := range volumes {
			if slices.Contains(ids, v.ID) && v.Size == 32*volume.MiB {
				got++
			}
		}
		if token = next; token == "" {
			break
		}
	}
	if got != 100 {
		t.Errorf("the listing has %d of the 100 volumes", got)
	}
}

// A controller that was killed between the steps of librbd leaves a name without an image.
func TestOnCephCreateReplacesANameWithoutImage(t *testing.T) {
	r := newCephRig(t)
	r.run(t, "rbd", "create", "--size", "4M", "volumes/"+r.prefix+"x")
	var info struct {
		ID string `json:"id"`
	}
	check(t, json.Unmarshal([]byte(r.run(t, "rbd", "info", "--format", "json", "volumes/"+r.prefix+"x")), &info))
	r.run(t, "rados", "-p", "volumes", "rm", "rbd_header."+info.ID)
	if v := r.create(t, r.request("x")); v.Size != volume.GiB {
		t.Errorf("got %s", v.Size)
	}
}

func TestOnCephLayoutAndDataPool(t *testing.T) {
	r := newCephRig(t)
	v := r.create(t, r.request("x", "dataPool", "ecdata", "objectSize", "8388608",
		"stripeUnit", "65536", "stripeCount", "4",
		"imageFeatures", "layering,exclusive-lock,object-map,fast-diff,deep-flatten"))
	var info struct {
		DataPool    string `json:"data_pool"`
		ObjectSize  uint64 `json:"object_size"`
		StripeUnit  uint64 `json:"stripe_unit"`
		StripeCount uint64 `json:"stripe_count"`
	}
	check(t, json.Unmarshal([]byte(r.run(t, "rbd", "info", "--format", "json", "volumes/"+r.prefix+"x")), &info))
	if info.DataPool != "ecdata" || info.ObjectSize != 8<<20 || info.StripeUnit != 65536 || info.StripeCount != 4 {
		t.Errorf("got %+v", info)
	}
	if got, err := r.Expand(t.Context(), v.ID, 3*volume.GiB); err != nil || got.Size != 3*volume.GiB {
		t.Errorf("got %s, %v", got.Size, err)
	}
	if conditions, err := r.Health(t.Context(), v.ID); err != nil || len(conditions) != 0 {
		t.Errorf("got %v, %v", conditions, err)
	}
	parameters := r.request("", "dataPool", "ecdata").Parameters
	capacity, err := r.Capacity(t.Context(), volume.CapacityRequest{Parameters: parameters})
	if err != nil || capacity.Available < volume.GiB {
		t.Errorf("got %+v, %v", capacity, err)
	}
}

func TestOnCephFullPool(t *testing.T) {
	r := newCephRig(t)
	v := r.create(t, r.request("x"))
	r.run(t, "ceph", "osd", "pool", "set-quota", "volumes", "max_bytes", fmt.Sprint(3<<30))
	t.Cleanup(func() { r.run(t, "ceph", "osd", "pool", "set-quota", "volumes", "max_bytes", "0") })
	_, err := r.Expand(t.Context(), v.ID, 4*volume.GiB)
	volumetest.WantKind(t, err, volume.KindOutOfRange, "4 GiB", "3 GiB", "set-quota volumes")
	_, err = r.Create(t.Context(), func() volume.CreateRequest {
		req := r.request("y")
		req.Size = 4 * volume.GiB
		return req
	}())
	volumetest.WantKind(t, err, volume.KindOutOfRange, "4 GiB")
	if got, err := r.Expand(t.Context(), v.ID, 2*volume.GiB); err != nil || got.Size != 2*volume.GiB {
		t.Errorf("got %s, %v", got.Size, err)
	}
}

func TestOnCephErrorsHaveTheirKinds(t *testing.T) {
	r := newCephRig(t)
	_, err := r.Get(t.Context(), realCluster+"/volumes/none")
	volumetest.WantKind(t, err, volume.KindNotFound)
	_, err = r.Get(t.Context(), realCluster+"/none/none")
	volumetest.WantKind(t, err, volume.KindUnavailable, "no pool none")
	_, err = r.Get(t.Context(), realCluster+"/volumes/nowhere/none")
	volumetest.WantKind(t, err, volume.KindNotFound)
	_, err = r.Create(t.Context(), r.request("x", "radosNamespace", "nowhere"))
	volumetest.WantKind(t, err, volume.KindInvalid, "rbd namespace create")
	req := r.request("huge", "imageFeatures", "layering,exclusive-lock,object-map")
	req.Size = 1024 * volume.TiB
	_, err = r.Create(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInvalid, "smaller size")
	v := r.create(t, r.request("y", "imageFeatures", "layering,exclusive-lock,object-map"))
	_, err = r.Expand(t.Context(), v.ID, 1024*volume.TiB)
	volumetest.WantKind(t, err, volume.KindOutOfRange, "from 1 GiB to 1024 TiB")
	check(t, r.CheckHealth(t.Context()))

	const wrongKey = "AQBVXlplAAAAABAAAAAAAAAAAAAAAAAAAAAAAA=="
	ctx := volume.WithSecrets(t.Context(), map[string]string{"userID": "csi", "userKey": wrongKey})
	_, err = r.Get(ctx, v.ID)
	volumetest.WantKind(t, err, volume.KindUnauthenticated, "client.csi")
}

// openForTest opens the image for writing on the connection that the backend uses.
func (r *cephRig) openForTest(t *testing.T, id string) (ceph.Image, error) {
	t.Helper()
	work, err := volumeTask(id, "opening the image")
	check(t, err)
	return run(t.Context(), r.Backend, work, func(_ context.Context, s *session) (ceph.Image, error) {
		im, err := s.resolve(id)
		if err != nil {
			return nil, err
		}
		opened, err := im.open(false)
		if err == nil {
			_, err = opened.Watchers() // librbd opens the image only now
		}
		return opened, err
	})
}

// The client is fenced by its address; the next call works.
func TestOnCephFencedConnectionIsReplaced(t *testing.T) {
	r := newCephRig(t)
	v := r.create(t, r.request("x"))
	im, err := r.openForTest(t, v.ID)
	check(t, err)
	watchers := r.run(t, "rbd", "status", "--format", "json", "volumes/"+r.prefix+"x")
	var status struct {
		Watchers []struct {
			Address string `json:"address"`
		} `json:"watchers"`
	}
	check(t, json.Unmarshal([]byte(watchers), &status))
	_ = im.Close()
	if len(status.Watchers) != 1 {
		t.Fatalf("got the watchers %+v", status)
	}
	r.run(t, "ceph", "osd", "blocklist", "add", status.Watchers[0].Address, "60")
	t.Cleanup(func() { r.run(t, "ceph", "osd", "blocklist", "rm", status.Watchers[0].Address) })
	got, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
	if err != nil || got.Size != 2*volume.GiB {
		t.Errorf("got %s, %v", got.Size, err)
	}
}

// A user may have capabilities for one pool only: the others are not listed.
func TestOnCephUserOfOnePool(t *testing.T) {
	r := newCephRig(t)
	key := r.run(t, "ceph", "auth", "get-or-create-key", "client.onepool", "mon", "profile rbd",
		"osd", "profile rbd pool=volumes")
	t.Cleanup(func() { r.run(t, "ceph", "auth", "rm", "client.onepool") })
	ctx := volume.WithSecrets(t.Context(), map[string]string{"userID": "onepool", "userKey": key})
	v, err := r.Create(ctx, r.request("x"))
	check(t, err)
	if got, err := r.Expand(ctx, v.ID, 2*volume.GiB); err != nil || got.Size != 2*volume.GiB {
		t.Errorf("got %s, %v", got.Size, err)
	}
	volumes, _, err := r.ListVolumes(ctx, volume.Page{})
	if err != nil || !slices.ContainsFunc(volumes, func(l volume.Volume) bool { return l.ID == v.ID }) {
		t.Errorf("got %v, %v", volumes, err)
	}
	_, err = r.Create(ctx, r.request("y", "pool", "other"))
	volumetest.WantKind(t, err, volume.KindUnavailable, "profile rbd", "client.onepool")
	check(t, r.Delete(ctx, v.ID))
}

// awaitFullFlag waits until a pool is marked as full, or none is any more: the monitors do so up to
// a minute after the quota or the data has changed.
func (r *cephRig) awaitFullFlag(t *testing.T, isFull bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	for strings.Contains(r.run(t, "ceph", "osd", "dump"), "full_quota") != isFull {
		if err := operation.Sleep(ctx, time.Second); err != nil {
			t.Fatalf("the flag full_quota did not become %t: %v", isFull, err)
		}
	}
}

// The monitors mark a pool as full a while after it is.
func TestOnCephPoolBecomesFull(t *testing.T) {
	r := newCephRig(t)
	v := r.create(t, r.request("x", "pool", "other"))
	t.Cleanup(func() { check(t, r.Delete(context.Background(), v.ID)) })
	content := filepath.Join(t.TempDir(), "content")
	check(t, os.WriteFile(content, make([]byte, 2<<20), 0o600))
	r.run(t, "rados", "-p", "other", "put", "filler", content)
	r.run(t, "ceph", "osd", "pool", "set-quota", "other", "max_bytes", fmt.Sprint(1<<20))
	t.Cleanup(func() {
		r.run(t, "ceph", "osd", "pool", "set-quota", "other", "max_bytes", "0")
		r.awaitFullFlag(t, false)
		r.run(t, "rados", "-p", "other", "rm", "filler")
	})
	r.awaitFullFlag(t, true)
	_, err := r.Expand(t.Context(), v.ID, 2*volume.GiB)
	volumetest.WantKind(t, err, volume.KindOutOfRange, "full_quota")
	_, err = r.Create(t.Context(), r.request("y", "pool", "other"))
	volumetest.WantKind(t, err, volume.KindOutOfRange, "full_quota")
	capacity, err := r.Capacity(t.Context(), volume.CapacityRequest{Parameters: r.request("", "pool", "other").Parameters})
	if err != nil || capacity.Available != 0 {
		t.Errorf("got %+v, %v", capacity, err)
	}
	conditions, err := r.Health(t.Context(), v.ID)
	if err != nil || len(conditions) != 1 || conditions[0].Reason != reasonPoolFull {
		t.Errorf("got %v, %v", conditions, err)
	}
	if got, err := r.Expand(t.Context(), v.ID, volume.GiB); err != nil || got.Size != volume.GiB {
		t.Errorf("a volume that is large enough: got %s, %v", got.Size, err)
	}
}

package ceph_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests a Ceph that is paused, stopped or full.

// outageDuration is how long an outage lasts: longer than outageTimeout, the timeout of the calls,
// so that at least one call of each kind must answer during the outage.
const (
	outageDuration = 8 * time.Second
	outageTimeout  = 5 * time.Second
)

// testPausedCluster makes calls while all writes and reads are paused. Every call answers before
// its deadline, and the repeated ones succeed afterwards.
func (r *rig) testPausedCluster(t *testing.T) {
	r.testOutage(t,
		func(ctx context.Context) error { _, err := r.Tool(ctx, "ceph", "osd", "pause"); return err },
		func(ctx context.Context) error { _, err := r.Tool(ctx, "ceph", "osd", "unpause"); return err })
}

// testStoppedOSDs is the same with OSDs that do not react at all.
func (r *rig) testStoppedOSDs(t *testing.T) {
	each := func(action string) func(context.Context) error {
		return func(ctx context.Context) error {
			for number := range 3 {
				if err := r.ControlService(ctx, action, fmt.Sprintf("osd.%d", number)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	r.testOutage(t, each("pause"), each("continue"))
}

// testOutage expands a volume in use and creates another one between begin and end, and repeats the
// calls until they succeed.
func (r *rig) testOutage(t *testing.T, begin, end func(context.Context) error) {
	t.Helper()
	n, ctx := r.nodes[0], testContext(t)
	v := must.Value(n.CreateWithParameters(ctx, class(nil), testName(t), gib, csiclient.MountCapability("xfs"), nil))(t)
	must.Succeed(t, n.Use(ctx, v))
	w := n.startWriter(t, v)
	must.Succeed(t, begin(ctx))
	t.Cleanup(func() { must.Succeed(t, end(context.WithoutCancel(t.Context()))) })
	done := make(chan error, 1)
	go func() {
		_ = operation.Sleep(ctx, outageDuration)
		done <- end(ctx)
	}()
	created := make(chan string, 1)
	go func() {
		var id string
		n.retry(t, "CreateVolume", outageTimeout, func(ctx context.Context) error {
			resp, err := r.client().CreateVolume(ctx, createRequest(testName(t)+"-new", gib))
			id = resp.GetVolume().GetVolumeId()
			return err
		})
		created <- id
	}()
	failures, _ := n.expandUntil(t, v, 2*gib, outageTimeout)
	if failures == 0 {
		t.Error("the expansion succeeded at once, so this test proves nothing")
	}
	must.Succeed(t, <-done)
	other := <-created
	r.wantSize(t, v.ID, 2*gib)
	r.wantSize(t, other, gib)
	r.wantNobodyFenced(t)
	n.wantGrown(t, v, 2*gib)
	w.stop(t)
	w.verify(t, v)
	must.Succeed(t, n.Release(ctx, v))
	n.wantCleanFilesystem(t, v)
	must.Succeed(t, n.Delete(ctx, v))
	must.Value(r.client().DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: other}))(t)
}

// testFullPool expands and creates volumes in a pool that has reached its quota. Ceph itself would
// not answer at all. Deletion must work: it is the way out.
func (r *rig) testFullPool(t *testing.T) {
	t.Parallel()
	ctx, c := testContext(t), r.client()
	request := func(name string) *csi.CreateVolumeRequest {
		req := createRequest(testName(t)+name, gib)
		req.Parameters["pool"] = ceph.SmallPool
		return req
	}
	// librbd must write an object before the first removal in a pool, which a full pool refuses: this
	// removal makes the object.
	first := must.Value(c.CreateVolume(ctx, request("-first")))(t).GetVolume().GetVolumeId()
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: first}))(t)
	id := must.Value(c.CreateVolume(ctx, request("")))(t).GetVolume().GetVolumeId()
	extra := must.Value(c.CreateVolume(ctx, request("-extra")))(t).GetVolume().GetVolumeId()
	must.Value(r.Tool(ctx, "rbd", "bench", "--io-type=write", "--io-size=1M", "--io-total=16M", imageOf(id)))(t)
	r.setQuota(t, 8*mib)
	_, err := expand(ctx, c, id, 2*gib)
	must.FailWith(t, err, codes.OutOfRange, ceph.SmallPool, "quota", "8 MiB")
	_, err = c.CreateVolume(ctx, request("-new"))
	must.FailWith(t, err, codes.OutOfRange, ceph.SmallPool, "quota")
	capacity := must.Value(c.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: class(map[string]string{
		"pool": ceph.SmallPool,
	})}))(t)
	if got := capacity.GetAvailableCapacity(); got != 0 {
		t.Errorf("the capacity of the full pool: got %s, want 0", sizeText(got))
	}
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: extra}))(t)
	r.wantNoImage(t, extra)
	r.setQuota(t, 0)
	if got := must.Value(expand(ctx, c, id, 2*gib))(t); got != 2*gib {
		t.Errorf("after the quota: got %s, want 2 GiB", sizeText(got))
	}
	r.wantSize(t, id, 2*gib)
	created := must.Value(c.CreateVolume(ctx, request("-new")))(t).GetVolume().GetVolumeId()
	for _, id := range []string{id, created} {
		must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
}

// setQuota sets the quota of the small pool and waits until its flag shows that Ceph has noticed,
// which takes up to a minute.
func (r *rig) setQuota(t *testing.T, bytes int64) {
	t.Helper()
	ctx := testContext(t)
	must.Value(r.Tool(ctx, "ceph", "osd", "pool", "set-quota", ceph.SmallPool, "max_bytes", fmt.Sprint(bytes)))(t)
	start := time.Now()
	must.Succeed(t, ceph.WaitUntil(ctx, "the flag full_quota follows the quota", func(ctx context.Context) (bool, error) {
		var dump struct {
			Pools []struct {
				Name  string `json:"pool_name"`
				Flags string `json:"flags_names"`
			} `json:"pools"`
		}
		if err := r.ToolJSON(ctx, &dump, "ceph", "osd", "dump"); err != nil {
			return false, err
		}
		isFull := false
		for _, p := range dump.Pools {
			isFull = isFull || p.Name == ceph.SmallPool && strings.Contains(p.Flags, "full_quota")
		}
		return isFull == (bytes > 0), nil
	}))
	t.Logf("the flag of the pool followed the quota of %s after %s", sizeText(bytes), time.Since(start).Round(time.Second))
}

package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

const (
	rounds            = 7
	concurrentVolumes = 10
)

// TestSpeed reports the time of a driver's call and the time of Cinder itself (make
// bench-openstack). A client that reads the volume without a pause measures the latter; no polling
// client can be faster.
func TestSpeed(t *testing.T) {
	r := newRig(t, rigDir(t))
	ctx, c := testContext(t), r.client()
	var driver, cinder [2][]time.Duration // of creations and extensions
	var ids []string
	for i := range rounds {
		var id, rawID string
		driver[0] = append(driver[0], measure(t, func() (err error) {
			resp, err := c.CreateVolume(ctx, createRequest(fmt.Sprintf("%s-%d", testName(t), i), gib))
			id = resp.GetVolume().GetVolumeId()
			return err
		}))
		cinder[0] = append(cinder[0], measure(t, func() (err error) {
			rawID, err = createDirectly(ctx, r.User, fmt.Sprintf("raw-%d", i))
			return err
		}))
		driver[1] = append(driver[1], measure(t, func() error {
			_, err := expand(ctx, c, id, 2*gib)
			return err
		}))
		cinder[1] = append(cinder[1], measure(t, func() error { return extendDirectly(ctx, r.User, rawID, 2) }))
		ids = append(ids, id, rawID)
	}
	r.deleteAll(t, ids)
	for i, call := range []string{"CreateVolume", "ControllerExpandVolume"} {
		d, c := median(driver[i]), median(cinder[i])
		t.Logf("%s: median %s; Cinder itself %s; ratio %.2f",
			call, d.Round(time.Millisecond), c.Round(time.Millisecond), float64(d)/float64(c))
	}
	r.testConcurrent(t)
}

// testConcurrent extends volumes concurrently, and reports the times of the driver and of Cinder
// itself.
func (r *rig) testConcurrent(t *testing.T) {
	t.Helper()
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	ids := make([]string, concurrentVolumes)
	for i := range ids {
		req := createRequest(fmt.Sprintf("%s-concurrent-%d", testName(t), i), gib)
		ids[i] = must.Value(c.CreateVolume(ctx, req))(t).GetVolume().GetVolumeId()
	}
	driver := callConcurrently(t, ids, func(id string) error {
		_, err := expand(ctx, c, id, 2*gib)
		return err
	})
	cinder := callConcurrently(t, ids, func(id string) error { return extendDirectly(ctx, r.User, id, 3) })
	t.Logf("ControllerExpandVolume, %d concurrent calls: median %s, maximum %s; Cinder itself: %s, %s", concurrentVolumes,
		median(driver).Round(time.Millisecond), slices.Max(driver).Round(time.Millisecond),
		median(cinder).Round(time.Millisecond), slices.Max(cinder).Round(time.Millisecond))
	for _, id := range ids {
		r.wantSize(t, id, 3*gib, "available")
	}
	r.deleteAll(t, ids)
}

// deleteAll deletes the volumes concurrently.
func (r *rig) deleteAll(t *testing.T, ids []string) {
	t.Helper()
	callConcurrently(t, ids, func(id string) error {
		_, err := r.client().DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
		return err
	})
}

// callConcurrently makes a call for each volume at the same time and returns the times of the
// calls.
func callConcurrently(t *testing.T, ids []string, call func(id string) error) []time.Duration {
	t.Helper()
	all, errs := make([]time.Duration, len(ids)), make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			start := time.Now()
			errs[i] = call(id)
			all[i] = time.Since(start)
		})
	}
	wg.Wait()
	must.Succeed(t, errors.Join(errs...))
	return all
}

// createDirectly creates a volume of 1 GiB and reads it without a pause until it is available. It
// returns the ID.
func createDirectly(ctx context.Context, c *openstack.Cloud, name string) (string, error) {
	v, err := volumes.Create(ctx, c.Volumes, volumes.CreateOpts{Name: name, Size: 1}, nil).Extract()
	for err == nil && v.Status != "available" {
		if v.Status == "error" {
			return "", fmt.Errorf("create volume %s: Cinder reports the state error", v.ID)
		}
		v, err = c.Volume(ctx, v.ID)
	}
	if err != nil {
		return "", err
	}
	return v.ID, nil
}

// extendDirectly extends a volume to a size in GiB and reads it without a pause until it has the
// size.
func extendDirectly(ctx context.Context, c *openstack.Cloud, id string, size int) error {
	if err := volumes.ExtendSize(ctx, c.Volumes, id, volumes.ExtendSizeOpts{NewSize: size}).Err; err != nil {
		return err
	}
	for {
		v, err := c.Volume(ctx, id)
		if err != nil || (v.Size == size && v.Status == "available") {
			return err
		}
	}
}

func measure(t *testing.T, call func() error) time.Duration {
	t.Helper()
	start := time.Now()
	must.Succeed(t, call())
	return time.Since(start)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

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

	"github.com/growvol/growvol/tests/openstack"
)

const (
	rounds   = 7
	together = 10
	// tolerated is how much slower than Cinder itself a call of the driver may
	// be before the test fails. It is far from the usual, so that another
	// load on the machine makes no red test.
	tolerated = 3.0
)

// testSpeed compares what a call of the driver takes with what Cinder itself
// takes, as a client sees it that reads the volume again and again without a
// pause. No polling client can be faster.
func (r *rig) testSpeed(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	var mine, raw [2][]time.Duration // of creating, of extending
	var ids []string
	for i := range rounds {
		var id, rawID string
		mine[0] = append(mine[0], took(t, func() (err error) {
			resp, err := c.CreateVolume(ctx, request(fmt.Sprintf("%s-%d", name(t), i), gib))
			id = resp.GetVolume().GetVolumeId()
			return err
		}))
		raw[0] = append(raw[0], took(t, func() (err error) {
			rawID, err = createBusily(ctx, r.User, fmt.Sprintf("raw-%d", i))
			return err
		}))
		mine[1] = append(mine[1], took(t, func() error {
			_, err := expand(ctx, c, id, 2*gib)
			return err
		}))
		raw[1] = append(raw[1], took(t, func() error { return extendBusily(ctx, r.User, rawID, 2) }))
		ids = append(ids, id, rawID)
	}
	r.deleteAll(t, ids)
	for i, call := range []string{"CreateVolume", "ControllerExpandVolume"} {
		m, r := median(mine[i]), median(raw[i])
		ratio := float64(m) / float64(r)
		t.Logf("%s: median %s; Cinder itself %s; %.2f times", call, m.Round(time.Millisecond), r.Round(time.Millisecond), ratio)
		if ratio > tolerated {
			t.Errorf("%s takes %.2f times as long as Cinder itself", call, ratio)
		}
	}
	r.speedTogether(t)
}

// speedTogether extends ten volumes at once.
func (r *rig) speedTogether(t *testing.T) {
	t.Helper()
	ctx, c := limited(t), r.client()
	ids := make([]string, together)
	for i := range ids {
		ids[i] = get(c.CreateVolume(ctx, request(fmt.Sprintf("%s-together-%d", name(t), i), gib)))(t).GetVolume().GetVolumeId()
	}
	mine := atOnce(t, ids, func(id string) error {
		_, err := expand(ctx, c, id, 2*gib)
		return err
	})
	raw := atOnce(t, ids, func(id string) error { return extendBusily(ctx, r.User, id, 3) })
	t.Logf("ControllerExpandVolume, %d at once: median %s, slowest %s; Cinder itself: %s, %s", together,
		median(mine).Round(time.Millisecond), slices.Max(mine).Round(time.Millisecond), median(raw).Round(time.Millisecond), slices.Max(raw).Round(time.Millisecond))
	for _, id := range ids {
		r.wantSize(t, id, 3*gib, "available")
	}
	r.deleteAll(t, ids)
}

func (r *rig) deleteAll(t *testing.T, ids []string) {
	t.Helper()
	atOnce(t, ids, func(id string) error {
		_, err := r.client().DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
		return err
	})
}

// atOnce makes a call for each volume at the same time and returns how long
// each of them took.
func atOnce(t *testing.T, ids []string, call func(id string) error) []time.Duration {
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
	must(t, errors.Join(errs...))
	return all
}

// createBusily creates a volume of 1 GiB and reads it until it is there.
func createBusily(ctx context.Context, c *openstack.Cloud, name string) (string, error) {
	v, err := volumes.Create(ctx, c.Volumes, volumes.CreateOpts{Name: name, Size: 1}, nil).Extract()
	for err == nil && v.Status != "available" {
		if v.Status == "error" {
			return "", fmt.Errorf("Cinder could not create volume %s", v.ID)
		}
		v, err = c.Volume(ctx, v.ID)
	}
	if err != nil {
		return "", err
	}
	return v.ID, nil
}

// extendBusily extends a volume and reads it until it has the size in GiB.
func extendBusily(ctx context.Context, c *openstack.Cloud, id string, size int) error {
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

func took(t *testing.T, call func() error) time.Duration {
	t.Helper()
	start := time.Now()
	must(t, call())
	return time.Since(start)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

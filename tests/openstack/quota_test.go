package openstack_test

import (
	"context"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testQuota exceeds a quota: the code is OUT_OF_RANGE, after which a user of Kubernetes can request
// less, and a smaller request succeeds.
func (r *rig) testQuota(t *testing.T) {
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	setQuota := func(count, gigabytes int) {
		must.Succeed(t, r.Admin.SetQuota(context.WithoutCancel(ctx), r.User.Project, count, gigabytes))
	}
	t.Cleanup(func() { setQuota(1000, 1000) })
	// Cinder counts a deleted volume for a moment after it is gone.
	must.Succeed(t, openstack.WaitUntil(ctx, "the usage of the quota is 0", func(ctx context.Context) (bool, error) {
		used, err := quotasets.GetUsage(ctx, r.Admin.Volumes, r.User.Project).Extract()
		return used.Volumes.InUse+used.Volumes.Reserved+used.Gigabytes.InUse+used.Gigabytes.Reserved == 0, err
	}))
	setQuota(2, 4)
	id := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()

	start := time.Now()
	_, err := expand(ctx, c, id, 50*gib)
	must.FailWith(t, err, codes.OutOfRange, id, "quota", "50 GiB")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the refusal took %s, want at most 10s", took)
	}
	t.Logf("expansion beyond the quota: %v", err)
	r.wantSize(t, id, gib, "available")
	if got := must.Value(expand(ctx, c, id, 2*gib))(t); got != 2*gib {
		t.Errorf("a smaller expansion: got %s, want 2 GiB", sizeText(got))
	}

	_, err = c.CreateVolume(ctx, createRequest(testName(t)+"-large", 50*gib))
	must.FailWith(t, err, codes.OutOfRange, "quota")
	t.Logf("creation beyond the quota: %v", err)
	second := must.Value(c.CreateVolume(ctx, createRequest(testName(t)+"-large", 2*gib)))(t).GetVolume().GetVolumeId()
	_, err = c.CreateVolume(ctx, createRequest(testName(t)+"-third", gib))
	must.FailWith(t, err, codes.OutOfRange, "quota")

	for _, id := range []string{id, second} {
		must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
}

// testRefused extends a volume beyond the capacity of the pool. Cinder answers 202, but then resets
// the state and keeps the size: the driver must judge by the size, not by the state.
func (r *rig) testRefused(t *testing.T) {
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	id := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()
	// The size is within the quota, but beyond what Cinder overcommits of the rig's 40 GiB.
	_, err := expand(ctx, c, id, 900*gib)
	must.FailWith(t, err, codes.OutOfRange, id, "1 GiB", "900 GiB", "did not extend", "next step")
	t.Logf("expansion beyond the capacity: %v", err)
	r.wantSize(t, id, gib, "available")
	if got := must.Value(expand(ctx, c, id, 2*gib))(t); got != 2*gib {
		t.Errorf("a smaller expansion: got %s, want 2 GiB", sizeText(got))
	}
	r.wantSize(t, id, 2*gib, "available")
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
}

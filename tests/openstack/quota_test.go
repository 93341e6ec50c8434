package openstack_test

import (
	"context"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/openstack"
)

// testQuota: a quota ends a request with OUT_OF_RANGE, which lets a user of
// Kubernetes ask for less; and asking for less works.
func (r *rig) testQuota(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	limit := func(count, gigabytes int) {
		must(t, r.Admin.SetQuota(context.WithoutCancel(ctx), r.User.Project, count, gigabytes))
	}
	t.Cleanup(func() { limit(1000, 1000) })
	// Cinder counts a deleted volume a little longer than it shows it.
	must(t, openstack.Eventually(ctx, "the quota counts nothing", func(ctx context.Context) (bool, error) {
		used, err := quotasets.GetUsage(ctx, r.Admin.Volumes, r.User.Project).Extract()
		return used.Volumes.InUse+used.Volumes.Reserved+used.Gigabytes.InUse+used.Gigabytes.Reserved == 0, err
	}))
	limit(2, 4)
	id := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume().GetVolumeId()

	start := time.Now()
	_, err := expand(ctx, c, id, 50*gib)
	wantCode(t, err, codes.OutOfRange, id, "quota", "50 GiB")
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("the refusal took %s", took)
	}
	t.Logf("expansion beyond the quota: %v", err)
	r.wantSize(t, id, gib, "available")
	if got := get(expand(ctx, c, id, 2*gib))(t); got != 2*gib {
		t.Errorf("a smaller expansion gives %s", short(got))
	}

	_, err = c.CreateVolume(ctx, request(name(t)+"-large", 50*gib))
	wantCode(t, err, codes.OutOfRange, "quota")
	t.Logf("creation beyond the quota: %v", err)
	second := get(c.CreateVolume(ctx, request(name(t)+"-large", 2*gib)))(t).GetVolume().GetVolumeId()
	_, err = c.CreateVolume(ctx, request(name(t)+"-third", gib))
	wantCode(t, err, codes.OutOfRange, "quota")

	for _, id := range []string{id, second} {
		get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
}

// testRefused: Cinder accepts an extension that no pool has room for, with 202,
// puts the status back and leaves the size. A status that has settled is no
// success: the size is.
func (r *rig) testRefused(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	id := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume().GetVolumeId()
	// Within the quota, beyond what Cinder would promise of the rig's 40 GiB.
	_, err := expand(ctx, c, id, 900*gib)
	wantCode(t, err, codes.OutOfRange, id, "1 GiB", "900 GiB", "refused", "next step")
	t.Logf("refused: %v", err)
	r.wantSize(t, id, gib, "available")
	if got := get(expand(ctx, c, id, 2*gib))(t); got != 2*gib {
		t.Errorf("a smaller expansion gives %s", short(got))
	}
	r.wantSize(t, id, 2*gib, "available")
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
}

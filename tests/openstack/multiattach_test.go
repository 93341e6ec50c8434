package openstack_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/inguest"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testMultiattach extends a volume that two guests use at once. It is a raw block volume, because
// two kernels would destroy a filesystem.
func (r *rig) testMultiattach(t *testing.T) {
	r.checkLeftovers(t)
	ctx := testContext(t)
	guests := []*guest{r.guest(t, openstack.BusVirtioBlk), r.guest(t, openstack.BusVirtioSCSI)}
	shared := csiclient.BlockCapability()
	shared.AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	parameters := map[string]string{"type": "rbd-multi"}
	volumes := make([]*csiclient.Volume, len(guests))
	for i, g := range guests {
		// The second call returns the volume that the first one has created.
		volumes[i] = must.Value(g.CreateWithParameters(ctx, parameters, testName(t), gib, shared, nil))(t)
		must.Succeed(t, g.Use(ctx, volumes[i]))
	}
	inguest.WriteMark(t, guests[0].Agent, volumes[0].Target, gib)
	must.Succeed(t, guests[0].ExpandController(ctx, volumes[0], 2*gib))
	for i, g := range guests {
		if size := must.Value(g.ExpandNode(ctx, volumes[i], 2*gib))(t); size != 2*gib {
			t.Errorf("guest %d reports %s, want 2 GiB", i, sizeText(size))
		}
		inguest.WantMark(t, g.Agent, volumes[i].Target, gib)
	}
	// The first detachment must not take the disk from the other guest.
	must.Succeed(t, guests[0].Release(ctx, volumes[0]))
	inguest.WantMark(t, guests[1].Agent, volumes[1].Target, gib)
	must.Succeed(t, guests[1].Release(ctx, volumes[1]))
	must.Succeed(t, guests[0].Delete(ctx, volumes[0]))
}

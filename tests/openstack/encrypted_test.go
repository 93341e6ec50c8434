package openstack_test

import (
	"testing"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testEncrypted extends a volume that QEMU decrypts. The guest's device is smaller than the volume
// by the LUKS header, so the driver cannot judge a growth by the size of the volume.
func (r *rig) testEncrypted(t *testing.T) {
	r.checkLeftovers(t)
	// A LUKS1 header, as QEMU writes it, has about 2 MiB.
	const maxHeader = 4 << 20
	g, ctx := r.guest(t, openstack.BusVirtioBlk), testContext(t)
	v := must.Value(g.CreateWithParameters(
		ctx, map[string]string{"type": "rbd-luks"}, testName(t), gib, csiclient.MountCapability("ext4"), nil,
	))(t)
	if raw := must.Value(r.User.Volume(ctx, v.ID))(t); !raw.Encrypted {
		t.Fatalf("volume %s is not encrypted, so this test proves nothing", v.ID)
	}
	must.Succeed(t, g.Use(ctx, v))
	w := g.startWriter(t, v)
	for _, size := range []int64{2 * gib, 3 * gib} {
		if e := must.Value(g.Expand(ctx, v, size))(t); e.ControllerSize != size {
			t.Errorf("the controller reports %s, want %s", sizeText(e.ControllerSize), sizeText(size))
		}
		g.wantGrownWithHeader(t, v, size, maxHeader)
	}
	w.stop(t)
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Use(ctx, v))
	w.verify(t, v)
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Delete(ctx, v))
}

package openstack_test

import (
	"testing"
	"time"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/inguest"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// testGrowth extends a volume twice under a writer, on each bus with another filesystem. It reads
// every size back in Cinder and in the guest, and verifies every byte.
func (r *rig) testGrowth(t *testing.T) {
	r.checkLeftovers(t)
	for _, on := range []struct {
		bus    openstack.Bus
		fstype string
	}{{openstack.BusVirtioBlk, "ext4"}, {openstack.BusVirtioSCSI, "xfs"}} {
		t.Run(on.fstype+" on "+string(on.bus), func(t *testing.T) { growInUse(t, r, r.guest(t, on.bus), on.fstype) })
	}
}

func growInUse(t *testing.T, r *rig, g *guest, fstype string) {
	t.Helper()
	ctx := testContext(t)
	v := must.Value(g.Create(ctx, testName(t), gib, csiclient.MountCapability(fstype), nil))(t)
	must.Succeed(t, g.Use(ctx, v))
	r.wantSize(t, v.ID, gib, "in-use")
	w := g.startWriter(t, v)
	for _, size := range []int64{2 * gib, 3 * gib} {
		e := must.Value(g.Expand(ctx, v, size))(t)
		if e.ControllerSize != size || e.NodeSize != size {
			t.Errorf("expanded to %s: the controller reports %s, the node %s",
				sizeText(size), sizeText(e.ControllerSize), sizeText(e.NodeSize))
		}
		t.Logf("to %s: controller %s, node %s", sizeText(size), e.ControllerDuration.Round(time.Millisecond),
			e.NodeDuration.Round(time.Millisecond))
		r.wantSize(t, v.ID, size, "in-use")
		g.wantGrown(t, v, size)
		if again := must.Value(g.Expand(ctx, v, size))(t); again.NodeSize != size {
			t.Errorf("the repeated call reports %s, want %s", sizeText(again.NodeSize), sizeText(size))
		}
	}
	bytes, stall := w.stop(t)
	must.Succeed(t, g.Release(ctx, v))
	r.wantSize(t, v.ID, 3*gib, "available")

	// A new attachment makes sure that the data come from the volume, not from a cache.
	must.Succeed(t, g.Use(ctx, v))
	w.verify(t, v)
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Delete(ctx, v))
	t.Logf("1 → 3 GiB in two growths; %s written meanwhile, longest stall %s", sizeText(bytes), stall)
}

// wantGrown fails the test unless the filesystem and the device have the size in the guest, as
// programs that do not belong to the driver report it.
func (g *guest) wantGrown(t *testing.T, v *csiclient.Volume, size int64) {
	t.Helper()
	g.wantGrownWithHeader(t, v, size, 0)
}

// wantGrownWithHeader is wantGrown for a device that may be smaller than the volume by at most
// maxHeader bytes.
func (g *guest) wantGrownWithHeader(t *testing.T, v *csiclient.Volume, size, maxHeader int64) {
	t.Helper()
	device, total := g.sizes(t, v)
	// The journal, inode tables and XFS's log do not count.
	if total > size || total < size*90/100 {
		t.Errorf("df in the guest: got %s, want about %s", sizeText(total), sizeText(size))
	}
	if device > size || device < size-maxHeader {
		t.Errorf("the device of %s in the guest: got %s, want %s", v.Target, sizeText(device), sizeText(size))
	}
	stats, _, err := g.Stats(t.Context(), v)
	if must.Succeed(t, err); stats != total {
		t.Errorf("NodeGetVolumeStats reports %s, but df %s", sizeText(stats), sizeText(total))
	}
}

// writer is a program in the guest that writes files and records their checksums.
type writer struct{ *inguest.Writer }

// startWriter starts a writer in the filesystem of a volume.
func (g *guest) startWriter(t *testing.T, v *csiclient.Volume) *writer {
	t.Helper()
	return &writer{inguest.StartWriter(t, g.Agent, "writer", v.Target, "/tmp/"+v.ID)}
}

// stop ends the writing. It returns the number of written bytes and the longest time of one write.
func (w *writer) stop(t *testing.T) (bytes int64, stall time.Duration) {
	t.Helper()
	written := w.Stop(t)
	return written.Bytes, time.Duration(written.StallMS) * time.Millisecond
}

// verify reads all files back and compares their checksums.
func (w *writer) verify(t *testing.T, v *csiclient.Volume) {
	t.Helper()
	w.Verify(t, v.Target)
}

// testBlock extends a raw block volume that a program in the guest holds open. The data at the old
// ends and at the new end must stay.
func (r *rig) testBlock(t *testing.T) {
	r.checkLeftovers(t)
	g, ctx := r.guest(t, openstack.BusVirtioSCSI), testContext(t)
	v := must.Value(g.Create(ctx, testName(t), gib, csiclient.BlockCapability(), nil))(t)
	must.Succeed(t, g.Use(ctx, v))
	holder := must.Value(g.Start(ctx, vm.Command{Argv: []string{"sh", "-c", "exec sleep 6000 <" + v.Target}}))(t)
	inguest.WriteMark(t, g.Agent, v.Target, gib)
	for _, size := range []int64{2 * gib, 4 * gib} {
		if e := must.Value(g.Expand(ctx, v, size))(t); e.ControllerSize != size || e.NodeSize != size {
			t.Errorf("expanded to %s: the controller reports %s, the node %s",
				sizeText(size), sizeText(e.ControllerSize), sizeText(e.NodeSize))
		}
		inguest.WriteMark(t, g.Agent, v.Target, size)
		if total, _, err := g.Stats(ctx, v); err != nil || total != size {
			t.Errorf("NodeGetVolumeStats: got %s (%v), want %s", sizeText(total), err, sizeText(size))
		}
	}
	must.Succeed(t, holder.Kill(ctx))
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Use(ctx, v))
	for _, end := range []int64{gib, 2 * gib, 4 * gib} {
		inguest.WantMark(t, g.Agent, v.Target, end)
	}
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Delete(ctx, v))
}

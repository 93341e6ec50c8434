package openstack_test

import (
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// testGrowthInUse: two growths under a writer for each filesystem on each bus.
// Every size is read back where it counts, every byte verified.
func (r *rig) testGrowthInUse(t *testing.T) {
	r.tidy(t)
	for _, bus := range []openstack.Bus{openstack.VirtioBlk, openstack.VirtioSCSI} {
		for _, fstype := range []string{"ext4", "xfs"} {
			t.Run(fstype+" on "+string(bus), func(t *testing.T) { growInUse(t, r, r.guest(t, bus), fstype) })
		}
	}
}

func growInUse(t *testing.T, r *rig, g *guest, fstype string) {
	t.Helper()
	ctx := limited(t)
	v := get(g.Create(ctx, name(t), gib, csiclient.MountCapability(fstype), nil))(t)
	must(t, g.Use(ctx, v))
	r.wantSize(t, v.ID, gib, "in-use")
	w := g.startWriter(t, v)
	for _, size := range []int64{2 * gib, 3 * gib} {
		e := get(g.Expand(ctx, v, size))(t)
		if e.ControllerSize != size || e.NodeSize != size {
			t.Errorf("expanded to %s: the controller says %s, the node %s", short(size), short(e.ControllerSize), short(e.NodeSize))
		}
		t.Logf("to %s: controller %s, node %s", short(size), e.ControllerDuration.Round(time.Millisecond), e.NodeDuration.Round(time.Millisecond))
		r.wantSize(t, v.ID, size, "in-use")
		g.wantGrown(t, v, size)
		if again := get(g.Expand(ctx, v, size))(t); again.NodeSize != size {
			t.Errorf("the repeated call says %s", short(again.NodeSize))
		}
	}
	bytes, stall := w.stop(t)
	must(t, g.Release(ctx, v))
	r.wantSize(t, v.ID, 3*gib, "available")

	// The data come from the volume, attached anew, not from a cache.
	must(t, g.Use(ctx, v))
	w.verify(t, v)
	must(t, g.Release(ctx, v))
	must(t, g.Delete(ctx, v))
	t.Logf("1 → 3 GiB in two growths; %s written meanwhile, longest stall %s", short(bytes), stall)
}

// wantGrown reads the filesystem's and the device's size in the guest, with
// programs that are not the driver's.
func (g *guest) wantGrown(t *testing.T, v *csiclient.Volume, size int64) {
	t.Helper()
	g.wantGrownBut(t, v, size, 0)
}

// wantGrownBut is wantGrown for a device that may lack some bytes which the
// volume has.
func (g *guest) wantGrownBut(t *testing.T, v *csiclient.Volume, size, lacking int64) {
	t.Helper()
	device, total := g.sizes(t, v)
	// What a filesystem keeps for itself: journal, inode tables, XFS's log.
	if total > size || total < size*90/100 {
		t.Errorf("df shows %s in the guest, want about %s", short(total), short(size))
	}
	if device > size || device < size-lacking {
		t.Errorf("the device of %s has %s in the guest, want %s", v.Target, short(device), short(size))
	}
	stats, _, err := g.Stats(t.Context(), v)
	if must(t, err); stats != total {
		t.Errorf("NodeGetVolumeStats says %s, df %s", short(stats), short(total))
	}
}

// writer is a program in the guest that writes checksummed files.
type writer struct {
	guest   *guest
	process *vm.Process
	record  string // path of the list of checksums, in the guest
}

func (g *guest) startWriter(t *testing.T, v *csiclient.Volume) *writer {
	t.Helper()
	record := "/tmp/" + v.ID
	p := get(g.Start(t.Context(), vm.Command{Argv: []string{"writer", "write", v.Target, record}}))(t)
	return &writer{guest: g, process: p, record: record}
}

// stop ends the writing and returns how many bytes were written and the
// longest time that one write has taken.
func (w *writer) stop(t *testing.T) (bytes int64, stall time.Duration) {
	t.Helper()
	ctx := limited(t)
	must(t, w.process.Signal(ctx, syscall.SIGTERM))
	must(t, w.process.Wait(ctx))
	o := outcome(t, get(w.process.Log(ctx))(t))
	return o.Bytes, time.Duration(o.StallMS) * time.Millisecond
}

// verify reads all that was written back.
func (w *writer) verify(t *testing.T, v *csiclient.Volume) {
	t.Helper()
	if o := outcome(t, w.guest.sh(t, fmt.Sprintf("writer verify %s %s && rm %[2]s", v.Target, w.record))); o.Bytes == 0 {
		t.Error("the writer has written nothing: nothing is proved")
	}
}

type written struct {
	Bytes   int64 `json:"bytes"`
	StallMS int64 `json:"stall_ms"`
}

func outcome(t *testing.T, output string) (o written) {
	t.Helper()
	if err := json.Unmarshal([]byte(output), &o); err != nil {
		t.Fatalf("the writer's output %q: %v", output, err)
	}
	return o
}

// testBlock: a raw block volume, held open by a program in the guest, grows
// under it; what was written at the old end and at the new one stays.
func (r *rig) testBlock(t *testing.T) {
	r.tidy(t)
	g, ctx := r.guest(t, openstack.VirtioSCSI), limited(t)
	v := get(g.Create(ctx, name(t), gib, csiclient.BlockCapability(), nil))(t)
	must(t, g.Use(ctx, v))
	holder := get(g.Start(ctx, vm.Command{Argv: []string{"sh", "-c", "exec sleep 6000 <" + v.Target}}))(t)
	g.stamp(t, v, gib)
	for _, size := range []int64{2 * gib, 4 * gib} {
		if e := get(g.Expand(ctx, v, size))(t); e.ControllerSize != size || e.NodeSize != size {
			t.Errorf("expanded to %s: the controller says %s, the node %s", short(size), short(e.ControllerSize), short(e.NodeSize))
		}
		g.stamp(t, v, size)
		if total, _, err := g.Stats(ctx, v); err != nil || total != size {
			t.Errorf("NodeGetVolumeStats says %s, %v; want %s", short(total), err, short(size))
		}
	}
	must(t, holder.Kill(ctx))
	must(t, g.Release(ctx, v))
	must(t, g.Use(ctx, v))
	for _, end := range []int64{gib, 2 * gib, 4 * gib} {
		g.wantStamp(t, v, end)
	}
	must(t, g.Release(ctx, v))
	must(t, g.Delete(ctx, v))
}

// stamp writes a word into the last 4 KiB before an end of the volume, past
// the guest's cache.
func (g *guest) stamp(t *testing.T, v *csiclient.Volume, end int64) {
	t.Helper()
	g.sh(t, fmt.Sprintf("printf 'ends at %d' | dd of=%s bs=4096 seek=%d conv=notrunc,sync,fsync 2>&1", end, v.Target, end/4096-1))
}

// wantStamp fails the test unless stamp's word is there.
func (g *guest) wantStamp(t *testing.T, v *csiclient.Volume, end int64) {
	t.Helper()
	want := fmt.Sprintf("ends at %d", end)
	if got := g.sh(t, fmt.Sprintf("dd if=%s bs=4096 skip=%d count=1 2>/dev/null | tr -d '\\0'", v.Target, end/4096-1)); got != want {
		t.Errorf("in the last block before %s there is %q, want %q", short(end), got, want)
	}
}

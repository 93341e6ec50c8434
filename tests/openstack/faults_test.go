package openstack_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
)

// testFaults: the moments between Cinder's word that a volume in use has grown
// and the guest's kernel knowing of it, stretched, and one in which the guest
// is never told. What the controller says is true of the volume; only the node
// may say that the filesystem has grown, and it does not before it has.
func (r *rig) testFaults(t *testing.T) {
	r.tidy(t)
	g, ctx := r.guest(t, openstack.VirtioBlk), limited(t)
	v := get(g.Create(ctx, name(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	must(t, g.Use(ctx, v))
	w := g.startWriter(t, v)
	t.Run("nova-compute stalls", func(t *testing.T) { growThroughStall(t, r, g, v, "nova-compute") })
	t.Run("nova-api stalls", func(t *testing.T) { growThroughStall(t, r, g, v, "nova-api") })
	t.Run("event lost", func(t *testing.T) { loseEvent(t, r, g, v) })
	t.Run("event lost and repeated", func(t *testing.T) { repeatEvent(t, r, g, v) })
	w.stop(t)
	t.Run("event lost and attached again", func(t *testing.T) { attachAgain(t, r, g, v) })
	w.verify(t, v)
	must(t, g.Release(ctx, v))
	must(t, g.Delete(ctx, v))
}

// wantShort fails the test unless the node says that the device is short:
// before the caller's deadline, with both sizes and what to do; and unless the
// filesystem is as it was.
func (g *guest) wantShort(t *testing.T, v *csiclient.Volume, has, want int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second) // enough for the node's whole margin: it is emulated
	defer cancel()
	_, err := g.ExpandNode(ctx, v, want)
	if ctx.Err() != nil {
		t.Error("the answer came only when the caller had given up")
	}
	wantCode(t, err, codes.DeadlineExceeded, v.ID, short(has), short(want), "next step", "1 GiB more", "detached and attached again")
	t.Logf("node: %v", err)
	g.wantGrown(t, v, has)
}

// growThroughStall grows the volume by 1 GiB while a service that passes the
// news on to the guest does not run.
func growThroughStall(t *testing.T, r *rig, g *guest, v *csiclient.Volume, service string) {
	t.Helper()
	ctx := limited(t)
	before := v.Size
	r.service(t, "pause", service)
	t.Cleanup(func() { r.service(t, "continue", service) })
	must(t, g.ExpandController(ctx, v, before+gib))
	r.wantSize(t, v.ID, before+gib, "in-use")
	g.wantShort(t, v, before, before+gib)

	// A call that is waiting when the news comes succeeds.
	type answer struct {
		size int64
		err  error
		took time.Duration
	}
	answered := make(chan answer, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		start := time.Now()
		size, err := g.ExpandNode(ctx, v, before+gib)
		answered <- answer{size, err, time.Since(start)}
	}()
	const stall = 2 * time.Second
	select {
	case a := <-answered:
		t.Fatalf("the node answered while nothing could have changed: %s, %v", short(a.size), a.err)
	case <-time.After(stall):
	}
	r.service(t, "continue", service)
	a := <-answered
	if must(t, a.err); a.size != before+gib {
		t.Errorf("the node says %s", short(a.size))
	}
	t.Logf("the node waited for %s, of which %s for the stall", a.took.Round(time.Millisecond), stall)
	g.wantGrown(t, v, before+gib)
}

// growUnheard grows the volume by 1 GiB while Nova's API, which would tell the
// guest, is dead: the event is lost for good.
func growUnheard(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	ctx := limited(t)
	before := v.Size
	r.service(t, "stop", "nova-api")
	t.Cleanup(func() { r.service(t, "start", "nova-api") })
	must(t, g.ExpandController(ctx, v, before+gib))
	r.wantSize(t, v.ID, before+gib, "in-use")
	r.service(t, "start", "nova-api")
	must(t, openstack.Eventually(ctx, "Nova answers", func(ctx context.Context) (bool, error) {
		return servers.Get(ctx, r.User.Compute, g.ID).Err == nil, nil
	}))
	g.wantShort(t, v, before, before+gib)
}

// loseEvent: the remedy that the node's message names, 1 GiB more, helps.
func loseEvent(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	growUnheard(t, r, g, v)
	size := v.Size + gib
	if e := get(g.Expand(limited(t), v, size))(t); e.NodeSize != size {
		t.Errorf("the node says %s", short(e.NodeSize))
	}
	g.wantGrown(t, v, size)
}

// attachAgain: the other remedy that the message names.
func attachAgain(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	growUnheard(t, r, g, v)
	must(t, g.Release(limited(t), v))
	must(t, g.Use(limited(t), v))
	if size := get(g.ExpandNode(limited(t), v, v.Size))(t); size != v.Size {
		t.Errorf("the node says %s", short(size))
	}
	g.wantGrown(t, v, v.Size)
}

// repeatEvent: a controller that may tell Nova itself repeats the event when
// external-resizer repeats the call.
func repeatEvent(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	growUnheard(t, r, g, v)
	notifier, _ := r.startController(t, "--clouds-yaml="+filepath.Join(r.Dir, "clouds.yaml"), "--cloud=nova", "--notify-nova")
	if size := get(expand(limited(t), csi.NewControllerClient(notifier.Conn), v.ID, v.Size))(t); size != v.Size {
		t.Errorf("the repeated call says %s", short(size))
	}
	if size := get(g.ExpandNode(limited(t), v, v.Size))(t); size != v.Size {
		t.Errorf("the node says %s", short(size))
	}
	g.wantGrown(t, v, v.Size)
}

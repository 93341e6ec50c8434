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
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testFaults delays or loses the news of an extension between Cinder and the guest's kernel. The
// controller reports the size of the volume; the node may report a grown filesystem only after it
// has grown.
func (r *rig) testFaults(t *testing.T) {
	r.checkLeftovers(t)
	g, ctx := r.guest(t, openstack.BusVirtioBlk), testContext(t)
	v := must.Value(g.Create(ctx, testName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, g.Use(ctx, v))
	w := g.startWriter(t, v)
	t.Run("nova-compute stalls", func(t *testing.T) { growThroughStall(t, r, g, v, "nova-compute") })
	t.Run("nova-api stalls", func(t *testing.T) { growThroughStall(t, r, g, v, "nova-api") })
	t.Run("event lost", func(t *testing.T) { growAfterLostEvent(t, r, g, v) })
	t.Run("event lost and repeated", func(t *testing.T) { repeatLostEvent(t, r, g, v) })
	w.stop(t)
	t.Run("event lost and attached again", func(t *testing.T) { reattachAfterLostEvent(t, r, g, v) })
	w.verify(t, v)
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Delete(ctx, v))
}

// wantDeviceTooSmall fails the test unless the node answers, before the deadline of the caller,
// that the device is too small, with both sizes and the next step; and unless the filesystem keeps
// its size.
func (g *guest) wantDeviceTooSmall(t *testing.T, v *csiclient.Volume, present, want int64) {
	t.Helper()
	// The guest is emulated: the timeout must be long enough for the whole margin of the node.
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
	defer cancel()
	_, err := g.ExpandNode(ctx, v, want)
	if ctx.Err() != nil {
		t.Error("the node answered only after the deadline of the caller")
	}
	must.FailWith(t, err, codes.DeadlineExceeded, v.ID, sizeText(present), sizeText(want), "next step", "1 GiB more",
		"detached and attached again")
	t.Logf("node: %v", err)
	g.wantGrown(t, v, present)
}

// growThroughStall extends the volume by 1 GiB while a service that passes the new size to the
// guest is paused.
func growThroughStall(t *testing.T, r *rig, g *guest, v *csiclient.Volume, service string) {
	t.Helper()
	ctx := testContext(t)
	before := v.Size
	r.service(t, "pause", service)
	t.Cleanup(func() { r.service(t, "continue", service) })
	must.Succeed(t, g.ExpandController(ctx, v, before+gib))
	r.wantSize(t, v.ID, before+gib, "in-use")
	g.wantDeviceTooSmall(t, v, before, before+gib)

	// A call that waits when the guest gets the new size succeeds.
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
		t.Fatalf("the node answered while the service was paused: %s, %v", sizeText(a.size), a.err)
	case <-time.After(stall):
	}
	r.service(t, "continue", service)
	a := <-answered
	if must.Succeed(t, a.err); a.size != before+gib {
		t.Errorf("the node reports %s, want %s", sizeText(a.size), sizeText(before+gib))
	}
	t.Logf("the node waited for %s, of which the service was paused for %s", a.took.Round(time.Millisecond), stall)
	g.wantGrown(t, v, before+gib)
}

// extendWithoutEvent extends the volume by 1 GiB while Nova's API, which would tell the guest, is
// stopped: the event is lost.
func extendWithoutEvent(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	ctx := testContext(t)
	before := v.Size
	r.service(t, "stop", "nova-api")
	t.Cleanup(func() { r.service(t, "start", "nova-api") })
	must.Succeed(t, g.ExpandController(ctx, v, before+gib))
	r.wantSize(t, v.ID, before+gib, "in-use")
	r.service(t, "start", "nova-api")
	must.Succeed(t, openstack.WaitUntil(ctx, "Nova answers", func(ctx context.Context) (bool, error) {
		return servers.Get(ctx, r.User.Compute, g.ID).Err == nil, nil
	}))
	g.wantDeviceTooSmall(t, v, before, before+gib)
}

// growAfterLostEvent checks the first remedy in the node's message: an extension by 1 GiB more.
func growAfterLostEvent(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	extendWithoutEvent(t, r, g, v)
	size := v.Size + gib
	if e := must.Value(g.Expand(testContext(t), v, size))(t); e.NodeSize != size {
		t.Errorf("the node reports %s, want %s", sizeText(e.NodeSize), sizeText(size))
	}
	g.wantGrown(t, v, size)
}

// reattachAfterLostEvent checks the second remedy in the node's message: a new attachment.
func reattachAfterLostEvent(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	extendWithoutEvent(t, r, g, v)
	must.Succeed(t, g.Release(testContext(t), v))
	must.Succeed(t, g.Use(testContext(t), v))
	if size := must.Value(g.ExpandNode(testContext(t), v, v.Size))(t); size != v.Size {
		t.Errorf("the node reports %s, want %s", sizeText(size), sizeText(v.Size))
	}
	g.wantGrown(t, v, v.Size)
}

// repeatLostEvent checks the third remedy: a controller that may send events to Nova repeats the
// event when external-resizer repeats the call.
func repeatLostEvent(t *testing.T, r *rig, g *guest, v *csiclient.Volume) {
	t.Helper()
	extendWithoutEvent(t, r, g, v)
	notifier, _ := r.startController(t, "--clouds-yaml="+filepath.Join(r.Dir, "clouds.yaml"), "--cloud=nova",
		"--notify-nova")
	client := csi.NewControllerClient(notifier.Conn)
	if size := must.Value(expand(testContext(t), client, v.ID, v.Size))(t); size != v.Size {
		t.Errorf("the repeated call reports %s, want %s", sizeText(size), sizeText(v.Size))
	}
	if size := must.Value(g.ExpandNode(testContext(t), v, v.Size))(t); size != v.Size {
		t.Errorf("the node reports %s, want %s", sizeText(size), sizeText(v.Size))
	}
	g.wantGrown(t, v, v.Size)
}

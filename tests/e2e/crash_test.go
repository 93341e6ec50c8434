package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// crashes is how often each operation is cut short. The moments differ from
// run to run; the seed is logged.
const crashes = 6

// The node plugin is killed without warning in the middle of an operation. A
// new one that is asked for the same must complete it, from whatever state the
// dead one has left: the filesystem is formatted once, mounted once, grown to
// the full, and no byte is lost.
func TestNodeKilledInTheMiddle(t *testing.T) {
	// The growth should last: ext4 is long at it, and xfs_repair, which checks
	// afterwards, slow with many allocation groups.
	for fstype, size := range map[string]int64{"ext4": 30 * gib, "xfs": 5 * gib} {
		t.Run(fstype, func(t *testing.T) {
			d, ctx := deploy(t), t.Context()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			cuts := map[string]int{}
			moments := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
			for i := range crashes {
				v := must.Value(d.Create(ctx, fmt.Sprintf("%s-%d", volumeName(t), i), gib, csiclient.MountCapability(fstype), nil))(t)
				must.Succeed(t, d.Attach(ctx, v))
				cut := func(what string, longest time.Duration, op func() error) {
					t.Helper()
					if killNodeDuring(t, d, time.Duration(moments.Int64N(int64(longest))), op) {
						cuts[what]++
					}
					if err := retryWhileInUse(ctx, op); err != nil {
						t.Fatalf("%s again after a crash: %v", what, err)
					}
				}
				cut("stage", 400*time.Millisecond, func() error { return d.Stage(ctx, v) })
				cut("publish", 20*time.Millisecond, func() error { return d.Publish(ctx, v) })
				w := csiclient.StartWriter(ctx, v.Target, 20<<20, time.Millisecond)
				must.Succeed(t, d.ExpandController(ctx, v, size))
				cut("expand", 60*time.Millisecond, func() error { _, err := d.ExpandNode(ctx, v, size); return err })
				wantSize(t, v, size)
				must.Succeed(t, w.Stop())
				cut("unpublish", 20*time.Millisecond, func() error { return d.Unpublish(ctx, v) })
				cut("unstage", 60*time.Millisecond, func() error { return d.Unstage(ctx, v) })
				must.Succeed(t, d.Use(ctx, v))
				must.Value(w.Verify(v.Target))(t)
				dev := mountedDevice(t, v.Staging)
				must.Succeed(t, d.Unpublish(ctx, v))
				must.Succeed(t, runCommand(t, "umount", v.Staging))
				fsck(t, fstype, dev.Path)
				must.Succeed(t, d.Unstage(ctx, v))
				must.Succeed(t, d.Detach(ctx, v))
				must.Succeed(t, d.Delete(ctx, v))
			}
			t.Logf("of %d operations each were cut short: %v", crashes, cuts)
			if len(cuts) == 0 {
				t.Error("nothing was cut short: the kills come too late")
			}
		})
	}
}

// killNodeDuring kills the node plugin a while after the operation began, or when
// it ended before that, and starts a new one.
// It tells whether the operation was cut short.
func killNodeDuring(t *testing.T, d *csiclient.Deployment, after time.Duration, op func() error) bool {
	t.Helper()
	cut := false
	done := make(chan error, 1)
	go func() { done <- op() }()
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
		d.NodePlugin.Kill()
		cut = <-done != nil
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
		d.NodePlugin.Kill()
	}
	must.Succeed(t, d.StartNode(t.Context()))
	return cut
}

// retryWhileInUse repeats an operation, as an orchestrator does, for as long as a mkfs
// or e2fsck that the dead plugin has left has the device.
func retryWhileInUse(ctx context.Context, op func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := op()
		if err == nil || !strings.Contains(err.Error(), "in use") || operation.Sleep(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

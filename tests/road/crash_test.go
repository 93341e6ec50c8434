package road

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/tests/co"
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
				v := get(d.Create(ctx, fmt.Sprintf("%s-%d", name(t), i), gib, co.Mount(fstype), nil))(t)
				must(t, d.Attach(ctx, v))
				cut := func(what string, longest time.Duration, op func() error) {
					t.Helper()
					if killDuring(t, d, time.Duration(moments.Int64N(int64(longest))), op) {
						cuts[what]++
					}
					if err := retried(ctx, op); err != nil {
						t.Fatalf("%s again after a crash: %v", what, err)
					}
				}
				cut("stage", 400*time.Millisecond, func() error { return d.Stage(ctx, v) })
				cut("publish", 20*time.Millisecond, func() error { return d.Publish(ctx, v) })
				w := co.StartWriter(ctx, v.Target, 20<<20, time.Millisecond)
				must(t, d.ExpandController(ctx, v, size))
				cut("expand", 60*time.Millisecond, func() error { _, err := d.ExpandNode(ctx, v, size); return err })
				wantGrown(t, v, size)
				must(t, w.Stop())
				cut("unpublish", 20*time.Millisecond, func() error { return d.Unpublish(ctx, v) })
				cut("unstage", 60*time.Millisecond, func() error { return d.Unstage(ctx, v) })
				must(t, d.Use(ctx, v))
				get(w.Verify(v.Target))(t)
				dev := source(t, v.Staging)
				must(t, d.Unpublish(ctx, v))
				must(t, command(t, "umount", v.Staging))
				fsck(t, fstype, dev.Path)
				must(t, d.Unstage(ctx, v))
				must(t, d.Detach(ctx, v))
				must(t, d.Delete(ctx, v))
			}
			t.Logf("of %d operations each were cut short: %v", crashes, cuts)
			if len(cuts) == 0 {
				t.Error("nothing was cut short: the kills come too late")
			}
		})
	}
}

// killDuring kills the node plugin a while after the operation began, or when
// it ended before that, and starts a new one.
// It tells whether the operation was cut short.
func killDuring(t *testing.T, d *co.Deployment, after time.Duration, op func() error) bool {
	t.Helper()
	cut := false
	done := make(chan error, 1)
	go func() { done <- op() }()
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
		d.Node.Kill()
		cut = <-done != nil
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
		d.Node.Kill()
	}
	must(t, d.StartNode(t.Context()))
	return cut
}

// retried repeats an operation, as an orchestrator does, for as long as a mkfs
// or e2fsck that the dead plugin has left has the device.
func retried(ctx context.Context, op func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := op()
		if err == nil || !strings.Contains(err.Error(), "in use") || operation.Sleep(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// crashTest is a series of volumes, each of which lives from its first stage to its
// deletion while the node plugin is killed in the middle of every node call.
type crashTest struct {
	volumes int // how many there are, one after the other
	fstype  string
	size    int64 // in bytes, that each grows to
	create  func(name string) *csiclient.Volume
	// header is how many bytes the filesystem's device is smaller than the volume,
	// mappings the number of dm-crypt devices while it is staged.
	header   int64
	mappings int
	// maxDelays bounds the random time from the start of a call to the kill, until a call of that
	// name has ended sooner: then its time is the bound.
	maxDelays map[string]time.Duration
}

// The node plugin is killed without warning in the middle of a call. A new one that
// gets the same call must complete it, from whatever state the killed one has left: the
// filesystem is formatted once, mounted once and grown to the full size, and no byte is
// lost.
func TestRetryCompletesCallsOfAKilledNode(t *testing.T) {
	// The growth must last long enough to be interrupted: that of ext4 does with 30 GiB.
	// xfs_repair, which checks afterwards, is slow with many allocation groups.
	for fstype, size := range map[string]int64{"ext4": 30 * gib, "xfs": 5 * gib} {
		t.Run(fstype, func(t *testing.T) {
			d := deploy(t)
			interrupted := crashTest{
				volumes: 3, fstype: fstype, size: size,
				create: func(name string) *csiclient.Volume {
					return must.Value(d.Create(t.Context(), name, gib, csiclient.MountCapability(fstype), nil))(t)
				},
				maxDelays: map[string]time.Duration{
					"stage": 400 * time.Millisecond, "publish": 20 * time.Millisecond, "expand": 60 * time.Millisecond,
					"unpublish": 20 * time.Millisecond, "unstage": 60 * time.Millisecond, "second stage": 60 * time.Millisecond,
				},
			}.run(t, d)
			if len(interrupted) == 0 {
				t.Error("no call was interrupted: the kills come too late")
			}
		})
	}
}

// The same for an encrypted volume, where the kill also meets cryptsetup. The
// header is written once, and one mapping is open while the volume is staged.
func TestRetryCompletesEncryptedCallsOfAKilledNode(t *testing.T) {
	const fstype = "ext4" // the layers below are the same for all
	d := deploy(t)
	interrupted := crashTest{
		volumes: 3, fstype: fstype, size: 2 * gib, header: luksHeader, mappings: 1,
		create: func(name string) *csiclient.Volume {
			return createEncrypted(t, d, name, gib, csiclient.MountCapability(fstype), nil)
		},
		maxDelays: map[string]time.Duration{
			"stage": 4 * time.Second, "publish": 20 * time.Millisecond, "expand": 200 * time.Millisecond,
			"unpublish": 20 * time.Millisecond, "unstage": 150 * time.Millisecond, "second stage": 2 * time.Second,
		},
	}.run(t, d)
	if interrupted["stage"] == 0 || interrupted["unstage"] == 0 {
		t.Error("stage and unstage must be interrupted at least once: the kills come too late")
	}
}

// run runs the test and returns how often each call was interrupted.
func (c crashTest) run(t *testing.T, d *csiclient.Deployment) map[string]int {
	t.Helper()
	ctx := t.Context()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
	interrupted := map[string]int{}
	crash := func(call string, f func() error) {
		t.Helper()
		took, isInterrupted := killNodeDuring(t, d, time.Duration(random.Int64N(int64(c.maxDelays[call]))), f)
		if isInterrupted {
			interrupted[call]++
		} else {
			c.maxDelays[call] = min(c.maxDelays[call], took)
		}
		if err := retryWhileInUse(ctx, f); err != nil {
			t.Fatalf("%s again after a crash: %v", call, err)
		}
	}
	for i := range c.volumes {
		v := c.create(fmt.Sprintf("%s-%d", volumeName(t), i))
		must.Succeed(t, d.Attach(ctx, v))
		crash("stage", func() error { return d.Stage(ctx, v) })
		wantMappings(t, c.mappings)
		crash("publish", func() error { return d.Publish(ctx, v) })
		w := csiclient.StartWriter(ctx, v.Target, 20<<20, time.Millisecond)
		must.Succeed(t, d.ExpandController(ctx, v, c.size))
		crash("expand", func() error { _, err := d.ExpandNode(ctx, withoutSecrets(v), c.size); return err })
		wantSize(t, v, c.size-c.header)
		must.Succeed(t, w.Stop())
		crash("unpublish", func() error { return d.Unpublish(ctx, v) })
		crash("unstage", func() error { return d.Unstage(ctx, v) })
		wantMappings(t, 0)
		crash("second stage", func() error { return d.Stage(ctx, v) })
		must.Succeed(t, d.Publish(ctx, v))
		must.Value(w.Verify(v.Target))(t)
		checkAndDelete(t, d, v, c.fstype)
	}
	t.Logf("of %d calls each were interrupted: %v", c.volumes, interrupted)
	return interrupted
}

// killNodeDuring kills the node plugin delay after call began, or when call has ended before, and
// starts a new one. It returns how long the call took until then, and whether it was interrupted.
func killNodeDuring(
	t *testing.T, d *csiclient.Deployment, delay time.Duration, call func() error,
) (took time.Duration, interrupted bool) {
	t.Helper()
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- call() }()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		d.NodePlugin.Kill()
		interrupted = <-done != nil
		took = time.Since(start)
	case err := <-done:
		took = time.Since(start)
		must.Succeed(t, err)
		d.NodePlugin.Kill()
	}
	must.Succeed(t, d.StartNode(t.Context()))
	return took, interrupted
}

// retryWhileInUse repeats a call, as kubelet does, while a mkfs or e2fsck that the
// killed plugin has left uses the device, for a minute at most.
func retryWhileInUse(ctx context.Context, call func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := call()
		if err == nil || !strings.Contains(err.Error(), "in use") || operation.Sleep(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

// wantMappings ends the test unless the guest has n device-mapper devices.
func wantMappings(t *testing.T, n int) {
	t.Helper()
	if found := must.Value(filepath.Glob("/sys/block/dm-*"))(t); len(found) != n {
		t.Fatalf("got the mappings %v, want %d", found, n)
	}
}

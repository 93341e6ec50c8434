package ceph_test

import (
	"context"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests nodes that Ceph does not reach during an expansion. A plain resize by librbd would
// fence such a node.

// callTimeout is shorter than what Ceph needs to answer in these tests.
const callTimeout = 10 * time.Second

// testCutOff returns a test that cuts a node off from Ceph for some seconds while its volume is
// expanded. Nobody may be fenced, every call must end before its deadline, and the writer must not
// notice more than a pause.
func (r *rig) testCutOff(number int, seconds time.Duration, features string) func(*testing.T) {
	return func(t *testing.T) {
		n, ctx := r.nodes[number], testContext(t)
		parameters := class(nil)
		if features != "" {
			parameters["imageFeatures"] = features
		}
		v := must.Value(n.CreateWithParameters(ctx, parameters, testName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
		must.Succeed(t, n.Use(ctx, v))
		w := n.startWriter(t, v)
		n.guest.Cut()
		cut, cancel := context.WithTimeout(ctx, seconds*time.Second)
		defer cancel()
		go func() {
			<-cut.Done()
			n.guest.Restore()
		}()
		start := time.Now()
		n.wantNoFalseSuccess(cut, t, v, 2*gib)
		failures, nodeFailures := n.expandUntil(t, v, 2*gib, callTimeout)
		t.Logf("cut off for %d s: grown after %s, after %d failures of the controller and %d of the node",
			seconds, time.Since(start).Round(time.Millisecond), failures, nodeFailures)
		r.wantNobodyFenced(t)
		n.wantGrown(t, v, 2*gib)
		w.stop(t)
		w.verify(t, v)
		// The node watches the image again: the next expansion is as quick as ever.
		n.expandUntil(t, v, 3*gib, callTimeout)
		n.wantGrown(t, v, 3*gib)
		must.Succeed(t, n.Release(ctx, v))
		must.Succeed(t, n.Delete(ctx, v))
		r.wantNobodyFenced(t)
	}
}

// wantNoFalseSuccess repeats NodeExpandVolume until the context ends. The node, which does not reach
// Ceph, must not report the size, and must answer before the deadline.
func (n *node) wantNoFalseSuccess(cut context.Context, t *testing.T, v *csiclient.Volume, size int64) {
	t.Helper()
	for cut.Err() == nil {
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		start := time.Now()
		got, err := n.ExpandNode(ctx, v, size)
		switch {
		case ctx.Err() != nil:
			t.Errorf("NodeExpandVolume answered only after the deadline of the caller: %v", err)
		case err == nil && cut.Err() == nil:
			t.Errorf("NodeExpandVolume reports %s on a node that cannot know it", sizeText(got))
		case err != nil:
			t.Logf("NodeExpandVolume while the node was cut off, after %s: %v", time.Since(start).Round(time.Millisecond), err)
		}
		cancel()
		if operation.Sleep(cut, 3*time.Second) != nil {
			return
		}
	}
}

package ceph_test

import (
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests nodes that Ceph does not reach during an expansion. A plain resize by librbd
// would fence such a node.

// callTimeout is shorter than what Ceph needs to answer in these tests.
const callTimeout = 10 * time.Second

// testCutOff returns a test that cuts a node off from Ceph while its volumes are expanded: one with
// the default features, one without the lock, and one with an object map, whose expansion needs the
// lock that the node has. Nobody may be fenced, every call must end before its deadline, and the
// writers must notice no more than a pause.
func testCutOff(duration time.Duration) func(*rig, *testing.T) {
	return func(r *rig, t *testing.T) { //nolint:thelper // a test, no helper
		n := r.nodes[0]
		var volumes []*csiclient.Volume
		var writers []*writer
		for i, features := range []string{"layering,exclusive-lock", "layering", allFeatures} {
			parameters := class(map[string]string{"imageFeatures": features})
			v := must.Value(n.CreateWithParameters(testContext(t), parameters, testName(t)+"-"+string(rune('a'+i)), gib,
				csiclient.MountCapability("ext4"), nil))(t)
			must.Succeed(t, n.Use(testContext(t), v))
			volumes, writers = append(volumes, v), append(writers, n.startWriter(t, v))
		}
		n.guest.Cut()
		t.Cleanup(n.guest.Restore)
		restored := make(chan struct{})
		timer := time.AfterFunc(duration, func() {
			close(restored)
			n.guest.Restore()
		})
		defer timer.Stop()
		start := time.Now()
		var expansions sync.WaitGroup
		for _, v := range volumes {
			expansions.Go(func() { n.expandCutOff(t, v, 2*gib, restored) })
		}
		expansions.Wait()
		t.Logf("cut off for %s: all volumes have grown after %s", duration, time.Since(start).Round(time.Millisecond))
		r.wantNobodyFenced(t)
		for i, v := range volumes {
			n.wantGrown(t, v, 2*gib)
			writers[i].stop(t)
			writers[i].verify(t, v)
			// The node watches the image again, so the next expansion needs no rescan.
			if watchers := must.Value(r.Watchers(testContext(t), imageOf(v.ID)))(t); len(watchers) == 0 {
				t.Errorf("nobody watches image %s after the cut, want the node", imageOf(v.ID))
			}
			n.expandUntil(t, v, 3*gib, callTimeout)
			n.wantGrown(t, v, 3*gib)
			must.Succeed(t, n.Release(testContext(t), v))
			must.Succeed(t, n.Delete(testContext(t), v))
		}
		r.wantNobodyFenced(t)
	}
}

// expandCutOff expands a volume of a node that is cut off until restored is closed, as
// external-resizer and kubelet do. The node must not report a size that it cannot know.
func (n *node) expandCutOff(t *testing.T, v *csiclient.Volume, size int64, restored <-chan struct{}) {
	t.Helper()
	failures, _ := n.expandUntil(t, v, size, callTimeout)
	select {
	case <-restored:
	default:
		t.Errorf("%s: the node reports the size while it is cut off", v.Name)
	}
	t.Logf("%s: the controller failed %d times before it succeeded", v.Name, failures)
}

package node

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A publication before the volume was unstaged does not count as the start of a pod.
func TestUnstageForgetsTheFirstPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.conn.PublishedSize, d.sizeOnlyAtConnect = volume.GiB, true
		err := errors.Join(
			b.stage(t.Context()), b.publish(t.Context(), false), b.unpublish(t.Context()), b.unstage(t.Context()),
			b.stage(t.Context()),
		)
		if err != nil {
			t.Fatal(err)
		}
		b.target, d.ignoresRescan = b.staging, true
		_, err = b.expandWithin(t, 4*volume.GiB, time.Minute)
		volumetest.WantKind(t, err, volume.KindDeadline)
	})
}

// newPublishedNode returns a node on which a volume of 1 GiB was published just now. Its controller
// says that it had the size attached when it was attached; 0: unknown.
func newPublishedNode(t *testing.T, attached volume.Size) (*testNode, *fakeDisk) {
	t.Helper()
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, volume.GiB)
	d.conn.PublishedSize, d.sizeOnlyAtConnect = attached, true
	if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
		t.Fatal(err)
	}
	return b, d
}

// A PersistentVolume that says more than the volume has must not keep the pod from its data. Before
// the node gives up, kubelet proves with a further NodePublishVolume that a pod waits.
func TestExpandOfAClaimThatExceedsTheVolume(t *testing.T) {
	for name, c := range map[string]struct {
		hasStarted bool
		attached   volume.Size
		kind       volume.Kind // of the second answer
		within     time.Duration
	}{
		"while the pod starts": {
			false, volume.GiB, volume.KindPrecondition, podStartDeviceTimeout + podStartRepeatTimeout,
		},
		"kubelet calls late": {
			true, volume.GiB, volume.KindPrecondition, time.Minute + podStartRepeatTimeout,
		},
		"the size at the attach is unknown":         {false, 0, volume.KindDeadline, 2 * time.Minute},
		"the device has not even the attached size": {false, 2 * volume.GiB, volume.KindDeadline, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d := newPublishedNode(t, c.attached)
				start := time.Now()
				if c.hasStarted {
					<-time.After(podStartWindow + time.Second)
					start = time.Now()
				}
				d.ignoresRescan = true
				_, err := b.expandWithin(t, 4*volume.GiB, time.Minute)
				volumetest.WantKind(t, err, volume.KindDeadline, "4 GiB", "1 GiB")
				if err := b.publish(t.Context(), false); err != nil {
					t.Fatal(err)
				}
				_, err = b.expandWithin(t, 4*volume.GiB, time.Minute)
				volumetest.WantKind(t, err, c.kind, "4 GiB", "1 GiB")
				if c.kind == volume.KindPrecondition &&
					!strings.Contains(err.Error(), "next step: if the PersistentVolume says more") {
					t.Errorf("error %q has no remedy", err)
				}
				if took := time.Since(start); took > c.within {
					t.Errorf("answered after %s, want %s at most", took, c.within)
				}
				// The news of a growth was late after all.
				d.backendSize, d.ignoresRescan = 4*volume.GiB, false
				if size, err := b.expand(t.Context(), 4*volume.GiB); err != nil || size != 4*volume.GiB {
					t.Errorf("expanded to %s, %v", size, err)
				}
			})
		})
	}
}

// A disk that is gone while a pod waits is no volume that is smaller than its PersistentVolume:
// kubelet has to call again.
func TestDiskIsGoneWhileAPodWaitsForItsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newPublishedNode(t, volume.GiB)
		d.ignoresRescan = true
		_, err := b.expandWithin(t, 4*volume.GiB, time.Minute)
		volumetest.WantKind(t, err, volume.KindDeadline)
		if err := b.publish(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			d.number = 99
		})
		_, err = b.expandWithin(t, 4*volume.GiB, time.Minute)
		volumetest.WantKind(t, err, volume.KindInternal, "does not lead to block device")
	})
}

// A growth in the first seconds of a pod is announced late: no answer may keep kubelet from calling
// again, and later calls wait for as long as kubelet does.
func TestLateGrowthInTheFirstSecondsOfAPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, d := newPublishedNode(t, volume.GiB)
		<-time.After(time.Second)
		d.ignoresRescan = true
		time.AfterFunc(time.Minute, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			d.backendSize, d.ignoresRescan = 2*volume.GiB, false
		})
		_, err := b.expandWithin(t, 2*volume.GiB, 2*time.Minute)
		volumetest.WantKind(t, err, volume.KindDeadline, "2 GiB", "1 GiB")
		if size, err := b.expandWithin(t, 2*volume.GiB, 2*time.Minute); err != nil || size != 2*volume.GiB {
			t.Errorf("the next call: %s, %v; want the growth", size, err)
		}
		// The next growth finds nothing of that.
		if err := b.publish(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if got := b.podStartTimes.get(b.id); !got.IsZero() {
			t.Errorf("a publish after the growth: got the time %s, want none", got)
		}
	})
}

// Only the first NodeExpandVolume right after the first publish may be a part of starting a pod.
// Every other call waits for a growth that the cloud announces late: kubelet does not call again
// after FAILED_PRECONDITION.
func TestOrdinaryExpandWaitsForALateGrowth(t *testing.T) {
	for name, before := range map[string]func(t *testing.T, b *testNode){
		"the pod runs for a while": func(*testing.T, *testNode) { <-time.After(podStartWindow + time.Second) },
		"its publish is repeated": func(t *testing.T, b *testNode) {
			t.Helper()
			<-time.After(time.Hour)
			if err := b.publish(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		},
		"another pod starts beside it": func(t *testing.T, b *testNode) {
			t.Helper()
			<-time.After(time.Hour)
			second := *b
			second.target = filepath.Join(filepath.Dir(b.target), "second")
			if err := second.publish(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		},
		"kubelet has asked once already": func(t *testing.T, b *testNode) {
			t.Helper()
			if _, err := b.expand(t.Context(), volume.GiB); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, d := newPublishedNode(t, volume.GiB)
				before(t, b)
				d.ignoresRescan = true
				time.AfterFunc(time.Minute, func() {
					b.mu.Lock()
					defer b.mu.Unlock()
					d.backendSize, d.ignoresRescan = 2*volume.GiB, false
				})
				if size, err := b.expandWithin(t, 2*volume.GiB, 2*time.Minute); err != nil || size != 2*volume.GiB {
					t.Errorf("a growth whose news came after a minute: %s, %v", size, err)
				}
			})
		})
	}
}

// Only the first of two pods that share a raw device counts as the start of a pod.
func TestSecondPublishOfARawDeviceIsNoPodStart(t *testing.T) {
	b := newTestNode(t, blockCapability())
	b.stageAndPublish(t, volume.GiB)
	if b.podStartTimes.get(b.id).IsZero() {
		t.Error("the first publish: got no time, want one")
	}
	b.podStartTimes.forget(b.id)
	second := *b
	second.target = filepath.Join(filepath.Dir(b.target), "second")
	if err := second.publish(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if got := b.podStartTimes.get(b.id); !got.IsZero() {
		t.Errorf("the second publish: got the time %s, want none", got)
	}
}

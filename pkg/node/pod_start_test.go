package node

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// Only the first NodeExpandVolume right after the first publish may be a part
// of starting a pod. Every other growth waits for news that are late: kubelet
// does not ask again after FAILED_PRECONDITION.
func TestLateNewsOfAnOrdinaryGrowthAreAwaited(t *testing.T) {
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
				b := newTestNode(t, mountCapability("ext4"))
				d := b.add(b.id, volume.GiB)
				d.conn.PublishedSize, d.sizeOnlyAtConnect = volume.GiB, true
				if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
					t.Fatal(err)
				}
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

// The commonest fault of a cloud: the volume has grown, and the node was not
// told. The node knows of it since kubelet has asked.
func TestHealthOfAGrowthThatHasNotReachedTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, volume.GiB)
		d.conn, d.sizeOnlyAtConnect = granularConnection(), true
		if err := errors.Join(b.stage(t.Context()), b.publish(t.Context(), false)); err != nil {
			t.Fatal(err)
		}
		d.backendSize, d.ignoresRescan = 2*volume.GiB, true
		_, err := b.expandWithin(t, 2*volume.GiB, time.Minute)
		wantKind(t, err, volume.KindDeadline)
		c := wantCondition(t, b, reasonDeviceShort, csi.VolumeHealthErrorType_DEGRADED)
		if !strings.Contains(c.GetMessage(), "2 GiB") || !strings.Contains(c.GetMessage(), "1 GiB") {
			t.Errorf("message %q does not name both sizes", c.GetMessage())
		}
		d.ignoresRescan = false
		if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
		wantHealthy(t, b)
	})
}

// A mapping that somebody else has made cannot be compared with its disk: that
// its growth has failed is the condition.
func TestHealthOfAForeignMappingThatCannotGrow(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.mappingSize, d.content.Size = volume.GiB-headerSize, volume.GiB-headerSize
	for i := range b.mounts {
		b.mounts[i].Device = blockdev.DeviceNumber{Major: cryptMajor, Minor: d.number}
	}
	d.backendSize, d.luks.keyInKeyring = 2*volume.GiB, true
	_, err := b.expand(t.Context(), 2*volume.GiB)
	wantKind(t, err, volume.KindPrecondition, "passphrase")
	c := wantCondition(t, b, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED)
	if !strings.Contains(c.GetMessage(), "passphrase") {
		t.Errorf("message %q does not say why", c.GetMessage())
	}
}

// What kept a growth from being begun may be gone the next time, whatever kind
// of error it is.
func TestDeviceChangeIsTriedAgainUntilItWasBegun(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		b.mu.Lock()
		b.fail["locate"] = volume.Errorf(volume.KindPrecondition, "several disks show the volume's id")
		b.mu.Unlock()
		b.growDevice(d, 2*volume.GiB, true)
		_ = operation.Sleep(t.Context(), 10*sizeReadInterval)
		b.mu.Lock()
		delete(b.fail, "locate")
		b.mu.Unlock()
		_ = operation.Sleep(t.Context(), sizeReadInterval+time.Second)
		synctest.Wait()
		if got := b.filesystemSize(d); got != 2*volume.GiB {
			t.Errorf("the filesystem has %s, want 2 GiB once the fault is gone", got)
		}
	})
}

// A volume that another driver has staged has no record. It gets one when it is
// expanded, and grows with its device from then on.
func TestExpandAdoptsAVolumeThatOthersHaveStaged(t *testing.T) {
	withSizeWatcher(t, mountCapability("ext4"), func(t *testing.T, b *testNode, d *fakeDisk) {
		t.Helper()
		if err := errors.Join(b.publish(t.Context(), false), b.records.Remove(b.id)); err != nil {
			t.Fatal(err)
		}
		b.growDevice(d, 2*volume.GiB, true)
		if got := b.filesystemSize(d); got != volume.GiB {
			t.Fatalf("the filesystem has %s without a record", got)
		}
		if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
		b.growDevice(d, 3*volume.GiB, true)
		if got := b.filesystemSize(d); got != 3*volume.GiB || d.content.Type != filesystem.TypeExt4 {
			t.Errorf("the filesystem has %s, want 3 GiB", got)
		}
	})
}

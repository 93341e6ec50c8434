package node

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A clone or restore into a larger volume, and a mapping that is still open at its old size.
func TestStageGrowsAnEncryptedVolume(t *testing.T) {
	for name, open := range map[string]bool{"a clone": false, "an open mapping": true} {
		t.Run(name, func(t *testing.T) {
			b := newEncryptedTestNode(t, mountCapability("ext4"))
			d := b.add(b.id, 4*volume.GiB)
			d.luks.header, d.luks.passphrase, d.content = luksHeader(luks.HeaderSound), secret, ext4Signature()
			if open {
				d.connected, d.deviceSize, d.mappingSize, b.mappedDisks[b.id] = true, volume.GiB, volume.GiB-headerSize, d
			}
			if err := b.stage(t.Context()); err != nil {
				t.Fatal(err)
			}
			if want := 4*volume.GiB - headerSize; d.mappingSize != want || d.content.Size != want {
				t.Errorf("mapping %s, filesystem %s, want %s", d.mappingSize, d.content.Size, want)
			}
		})
	}
}

// A restore into a larger raw volume whose mapping a crash has left open.
func TestStageGrowsAnEncryptedRawVolume(t *testing.T) {
	b := newEncryptedTestNode(t, blockCapability())
	d := b.add(b.id, 4*volume.GiB)
	b.encrypt(d)
	d.connected, d.deviceSize, d.mappingSize = true, volume.GiB, volume.GiB-headerSize
	b.fail["resize-crypt"] = volume.Errorf(volume.KindDeadline, "cryptsetup was stopped")
	volumetest.WantKind(t, b.stage(t.Context()), volume.KindDeadline)
	delete(b.fail, "resize-crypt")
	if err := b.stage(t.Context()); err != nil || d.mappingSize != 4*volume.GiB-headerSize {
		t.Errorf("%v; the mapping has %s", err, d.mappingSize)
	}
}

func TestStageGrowsToALargerDevice(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, 4*volume.GiB)
	d.content = ext4Signature()
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.content.Size != 4*volume.GiB {
		t.Errorf("a filesystem of 1 GiB on a clone of 4 GiB is staged with %s", d.content.Size)
	}
}

// Kubernetes sends no NodeExpandVolume for a restore into a larger claim: after a stage that
// succeeded on a device that is still too small nothing would grow the filesystem.
func TestStageFailsWhileTheDeviceIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.add(b.id, 4*volume.GiB)
		d.content, d.connected, d.deviceSize, d.ignoresRescan = ext4Signature(), true, volume.GiB, true
		d.conn.ShortRemedy = "attach it again"
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		volumetest.WantKind(t, b.stage(ctx), volume.KindDeadline, "vol-1", "1 GiB", "4 GiB", "next step: attach it again")
		if d.awaitTimeout < 50*time.Second {
			t.Errorf("waited %s for the device, want nearly all of the call's minute", d.awaitTimeout)
		}
		d.ignoresRescan = false
		if err := b.stage(t.Context()); err != nil || d.content.Size != 4*volume.GiB || len(b.mounts) != 1 {
			t.Errorf("the retry: %v; the filesystem has %s, %d mounts", err, d.content.Size, len(b.mounts))
		}
	})
}

func TestStageFailsWhileAnotherGrowthIsRunning(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.add(b.id, 4*volume.GiB)
	d.content = ext4Signature()
	for _, kind := range []volume.Kind{
		volume.KindDeadline, volume.KindCanceled, volume.KindInProgress, volume.KindUnavailable,
	} {
		b.fail["grow"] = volume.Errorf(kind, "is still being grown by another request")
		volumetest.WantKind(t, b.stage(t.Context()), kind, "another request")
	}
	delete(b.fail, "grow")
	if err := b.stage(t.Context()); err != nil || d.content.Size != 4*volume.GiB {
		t.Errorf("the retry: %v; the filesystem has %s", err, d.content.Size)
	}
}

// After a growth that needs a person the pod gets its data; the failure is counted, and reported
// until the filesystem has grown.
func TestStageReportsAGrowthThatNeedsAPerson(t *testing.T) {
	for name, failure := range map[string]error{
		"errors recorded":    volume.Errorf(volume.KindPrecondition, "the filesystem has recorded errors"),
		"the format's limit": volume.Errorf(volume.KindOutOfRange, "it can grow to 2 GiB at most"),
		"an unknown errno":   volume.Errorf(volume.KindInternal, "EXT4_IOC_RESIZE_FS: function not implemented"),
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4"))
			metrics := b.addMetrics(t)
			d := b.add(b.id, 4*volume.GiB)
			d.content = ext4Signature()
			b.fail["grow"] = failure
			if err := b.stage(t.Context()); err != nil {
				t.Fatalf("not staged: %v", err)
			}
			if err := b.publish(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			key := "growvol_node_growths_total,stage," + volume.KindOf(failure).String()
			if got := metrics()[key]; got != 1 {
				t.Errorf("%s = %g, want 1", key, got)
			}
			c := wantCondition(t, b, reasonFilesystemShort, csi.VolumeHealthErrorType_DEGRADED)
			for _, word := range []string{"1 GiB", "4 GiB", failure.Error()} {
				if !strings.Contains(c.GetMessage(), word) {
					t.Errorf("the condition %q does not mention %q", c.GetMessage(), word)
				}
			}
			_, err := b.expand(t.Context(), 4*volume.GiB)
			volumetest.WantKind(t, err, volume.KindOf(failure))
			delete(b.fail, "grow")
			if _, err := b.expand(t.Context(), 4*volume.GiB); err != nil {
				t.Fatal(err)
			}
			wantHealthy(t, b)
		})
	}
}

package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/csi-addons/spec/lib/go/reclaimspace"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// reclaimSpace sends the request that the sidecar of csi-addons sends.
func (b *testNode) reclaimSpace(ctx context.Context) error {
	_, err := b.NodeReclaimSpace(ctx, &reclaimspace.NodeReclaimSpaceRequest{
		VolumeId: b.id, StagingTargetPath: b.staging, VolumeCapability: b.capability,
	})
	return err
}

func TestReclaimSpaceTrimsTheStagedFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	metrics := b.addMetrics(t)
	b.stageAndPublish(t, 10*volume.GiB)
	if err := b.reclaimSpace(t.Context()); err != nil {
		t.Fatal(err)
	}
	// csi-addons' specification has the published path only; the record has the staging path.
	_, err := b.NodeReclaimSpace(t.Context(), &reclaimspace.NodeReclaimSpaceRequest{VolumeId: b.id, VolumePath: b.target})
	if err != nil {
		t.Fatal(err)
	}
	got := metrics()
	if got["growvol_node_trims_total,ok"] != 2 || got["growvol_node_trimmed_bytes_total,ok"] != float64(4*volume.GiB) {
		t.Errorf("metrics %v, want 2 calls and 4 GiB", got)
	}
	if b.open != 0 || b.trims.get(b.id) != nil {
		t.Errorf("%d devices are open, trim %v; want nothing left", b.open, b.trims.get(b.id))
	}
}

func TestReclaimSpaceFails(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(b *testNode, d *fakeDisk)
		kind   volume.Kind
		text   string
	}{
		"disk without discard": {
			func(_ *testNode, d *fakeDisk) { d.refusesDiscards = map[uint32]bool{diskMajor: true} },
			volume.KindUnsupported, "/dev/fake1",
		},
		"raw block volume": {
			func(b *testNode, _ *fakeDisk) { b.capability = blockCapability() }, volume.KindUnsupported, "raw block device",
		},
		"not mounted": {
			func(b *testNode, _ *fakeDisk) { b.staging += "-other" }, volume.KindPrecondition, "no filesystem is mounted",
		},
		"of another volume": {
			func(b *testNode, _ *fakeDisk) {
				other := b.add("vol-2", volume.GiB)
				other.connected = true
				b.staging += "-other"
				b.addMount(b.staging, mountOf(other))
			}, volume.KindPrecondition, "is another volume",
		},
		"not connected": {
			func(b *testNode, _ *fakeDisk) { b.add("vol-3", volume.GiB); b.id = "vol-3" }, volume.KindPrecondition, "not staged",
		},
		"unknown volume": {
			func(b *testNode, _ *fakeDisk) { b.id = "nobody" }, volume.KindNotFound, "",
		},
		"kernel refuses": {
			func(b *testNode, _ *fakeDisk) { b.fail["trim"] = volume.Errorf(volume.KindUnsupported, "the type") },
			volume.KindUnsupported, "the type",
		},
		"no paths": {
			func(b *testNode, _ *fakeDisk) { b.staging = "" }, volume.KindInvalid, "staging_target_path",
		},
		"relative path": {
			func(b *testNode, _ *fakeDisk) { b.staging = "a/b" }, volume.KindInvalid, "not an absolute path",
		},
		"no id": {func(b *testNode, _ *fakeDisk) { b.id = "" }, volume.KindInvalid, "volume_id"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestNode(t, mountCapability("xfs"))
			tc.change(b, b.stageAndPublish(t, volume.GiB))
			volumetest.WantKind(t, b.reclaimSpace(t.Context()), tc.kind, tc.text)
			if b.open != 0 {
				t.Errorf("%d devices are still open", b.open)
			}
		})
	}
}

func TestReclaimSpaceNamesAMappingWithoutDiscards(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.refusesDiscards = map[uint32]bool{cryptMajor: true}
	volumetest.WantKind(t, b.reclaimSpace(t.Context()), volume.KindPrecondition, "--encrypted-discards")
	if n := b.countCalls("trim"); n != 0 {
		t.Errorf("the filesystem was trimmed %d times, want never", n)
	}
	d.refusesDiscards = nil
	if err := b.reclaimSpace(t.Context()); err != nil {
		t.Errorf("a mapping that discards: %v", err)
	}
}

// startReclaim starts a trim whose first portion does not end.
func (b *testNode) startReclaim(ctx context.Context) (ended chan error) {
	b.holdTrim, b.trimStarted = make(chan struct{}), make(chan struct{})
	ended = make(chan error, 1)
	go func() { ended <- b.reclaimSpace(ctx) }()
	<-b.trimStarted
	b.trimStarted = nil
	return ended
}

func TestExpansionDoesNotWaitForATrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		d := b.stageAndPublish(t, volume.GiB)
		ended := b.startReclaim(t.Context())
		d.backendSize = 2 * volume.GiB
		if size, err := b.expandWithin(t, 2*volume.GiB, time.Second); err != nil || size != 2*volume.GiB {
			t.Errorf("expansion during a trim: %s, %v", size, err)
		}
		volumetest.WantKind(t, b.reclaimSpace(t.Context()), volume.KindInProgress, "already")
		close(b.holdTrim)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestATrimThatHangsEndsWithItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		volumetest.WantKind(t, <-b.startReclaim(ctx), volume.KindDeadline, "still under way")
		if took := time.Since(began); took != time.Minute {
			t.Errorf("answered after %s, want 1m", took)
		}
		volumetest.WantKind(t, b.reclaimSpace(t.Context()), volume.KindInProgress, "already")
		close(b.holdTrim)
		synctest.Wait()
		b.holdTrim = nil
		if err := b.reclaimSpace(t.Context()); err != nil || b.open != 0 {
			t.Errorf("after the trim has ended: %v, %d devices are open", err, b.open)
		}
	})
}

func TestUnstageStopsATrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		if err := b.unpublish(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended := b.startReclaim(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		volumetest.WantKind(t, b.unstage(ctx), volume.KindDeadline, "still discarding")
		volumetest.WantKind(t, <-ended, volume.KindInProgress, "unstaged")
		if n := b.countCalls("unmount"); n > 1 { // one was of the published path
			t.Errorf("%d unmounts, although the filesystem was in use", n)
		}
		time.AfterFunc(time.Second, func() { close(b.holdTrim) })
		if err := b.unstage(t.Context()); err != nil {
			t.Errorf("unstage after the trim: %v", err)
		}
		if b.open != 0 {
			t.Errorf("%d devices are open", b.open)
		}
	})
}

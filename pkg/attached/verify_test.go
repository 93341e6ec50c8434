package attached

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestVerifyRefusesOtherDisks(t *testing.T) {
	m := &fakeMachine{}
	m.plug("vda", blockdev.KindVirtioBlk, otherUUID[:20], volume.GiB)
	m.plug("vdb", blockdev.KindVirtioBlk, "", volume.GiB)
	m.plug("loop0", blockdev.KindLoop, uuid, volume.GiB)
	connector := newConnector(t, m)
	for path, c := range map[string]struct {
		kind volume.Kind
		word string
	}{
		"/dev/vda": {volume.KindPrecondition, otherUUID[:20]}, "/dev/vdb": {volume.KindPrecondition, "no serial"},
		"/dev/loop0": {volume.KindPrecondition, "loop"},
		"/dev/gone":  {volume.KindInternal, "no such device"},
	} {
		err := connector.Verify(t.Context(), uuid, path)
		volumetest.WantKind(t, err, c.kind, c.word, uuid)
		// Only a disk that the kernel does not have is gone; a foreign one never is,
		// whatever volume is asked for.
		for _, id := range []string{uuid, "no-volume-of-cinder", ""} {
			err := connector.Verify(t.Context(), id, path)
			if err == nil || errors.Is(err, volume.ErrGone) != (path == "/dev/gone") {
				t.Errorf("volume %q on %s: %v", id, path, err)
			}
		}
	}
}

// A disk that is pulled out while its serial is read shows an empty one.
func TestVerifyOfADiskThatIsPulledOut(t *testing.T) {
	m := &fakeMachine{}
	d := m.plug("vdb", blockdev.KindVirtioBlk, "", volume.GiB)
	m.onSerial = func(m *fakeMachine) { m.unplug("vdb") }
	err := newConnector(t, m).Verify(t.Context(), uuid, d.Path)
	volumetest.WantKind(t, err, volume.KindInternal, "no such device")
	if !errors.Is(err, volume.ErrGone) {
		t.Errorf("%v does not say that the disk is gone", err)
	}
}

// kubelet retries Verify of a disk that hangs: that costs one thread, not one for each call. Once
// the disk answers, Verify reads its serial again.
func TestVerifyOfADiskThatHangsCostsOneThread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		m.plug("vdc", blockdev.KindVirtioBlk, otherUUID[:20], volume.GiB)
		d.holdSerial = make(chan struct{})
		var serials atomic.Int64
		m.onSerial = func(*fakeMachine) { serials.Add(1) }
		connector := newConnector(t, m)
		before := runtime.NumGoroutine()
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			volumetest.WantKind(t, connector.Verify(ctx, uuid, d.Path), volume.KindDeadline, "does not answer", d.Path)
			cancel()
		}
		if more := runtime.NumGoroutine() - before; more > 2 {
			t.Errorf("50 calls left %d goroutines, want 2 at most", more)
		}
		if err := connector.Verify(t.Context(), otherUUID, "/dev/vdc"); err != nil {
			t.Errorf("another disk: %v", err)
		}
		before = int(serials.Load())
		close(d.holdSerial)
		if err := connector.Verify(t.Context(), uuid, d.Path); err != nil {
			t.Errorf("the disk answers again: %v", err)
		}
		if n := int(serials.Load()) - before; n != 2 {
			t.Errorf("%d readings, want 2: the one that hung, and one for the last call", n)
		}
	})
}

// A disk that does not answer proves nothing, and delays the call no longer than its context lasts.
func TestVerifyOfADiskThatHangsEndsWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		d.holdSerial = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := newConnector(t, m).Verify(ctx, uuid, d.Path)
		volumetest.WantKind(t, err, volume.KindDeadline)
		if errors.Is(err, volume.ErrGone) {
			t.Errorf("a disk that does not answer passes for gone: %v", err)
		}
		close(d.holdSerial)
	})
}

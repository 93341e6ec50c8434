package attached

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestDisconnectFlushesTheDisk(t *testing.T) {
	m := &fakeMachine{}
	connector := newConnector(t, m)
	for _, id := range []string{"", uuid} {
		if err := connector.Disconnect(t.Context(), id); err != nil {
			t.Errorf("disconnect of %q, which is not plugged in: %v", id, err)
		}
	}
	d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
	if err := connector.Disconnect(t.Context(), uuid); err != nil || d.flushed != 1 {
		t.Errorf("%v, flushed %d times", err, d.flushed)
	}
	d.flushErr = volume.Errorf(volume.KindPrecondition, "in use by dm-0")
	volumetest.WantKind(t, connector.Disconnect(t.Context(), uuid), volume.KindPrecondition, "dm-0", uuid)
	// An error of a disk that stays is about the disk; one of a disk that goes is its end.
	d.flushErr = volume.Errorf(volume.KindInternal, "flush: %w", unix.EIO)
	volumetest.WantKind(t, connector.Disconnect(t.Context(), uuid), volume.KindInternal, "flush")
	m.onFlush = func(m *fakeMachine) { m.unplug("vdb") }
	if err := connector.Disconnect(t.Context(), uuid); err != nil {
		t.Error(err)
	}
	d = m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], 0)
	if err := connector.Disconnect(t.Context(), uuid); err != nil || d.flushed != 0 {
		t.Errorf("on its way out: %v, flushed %d times", err, d.flushed)
	}
}

// A flush that continues after its call keeps the disk locked. The retry, and a new use of the
// volume, wait for it instead of finding the disk in use.
func TestDetachedFlushKeepsTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		d.holdFlush = make(chan struct{})
		m.plug("vdc", blockdev.KindVirtioBlk, otherUUID[:20], volume.GiB)
		connector := newConnector(t, m)
		call := func(what func(ctx context.Context) error) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			started := time.Now()
			err := what(ctx)
			if took := time.Since(started); took > time.Second {
				t.Errorf("a call of 1s took %s", took)
			}
			return err
		}
		disconnect := func(ctx context.Context) error { return connector.Disconnect(ctx, uuid) }
		connect := func(ctx context.Context) error {
			_, err := connector.Connect(ctx, volume.ConnectRequest{ID: uuid})
			return err
		}
		volumetest.WantKind(t, call(disconnect), volume.KindDeadline, "flushing /dev/vdb", uuid)
		volumetest.WantKind(t, call(disconnect), volume.KindDeadline, "earlier operation", "next step", uuid)
		volumetest.WantKind(t, call(connect), volume.KindDeadline, "earlier operation", uuid)
		// Another volume is not locked.
		if err := connector.Disconnect(t.Context(), otherUUID); err != nil {
			t.Error(err)
		}
		time.AfterFunc(time.Second/2, func() { close(d.holdFlush) })
		// What was written since the first flush began is flushed as well.
		if err := call(disconnect); err != nil || d.flushed != 2 {
			t.Errorf("%v, flushed %d times, want 2", err, d.flushed)
		}
		if err := call(connect); err != nil {
			t.Error(err)
		}
	})
}

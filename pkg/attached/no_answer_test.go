package attached

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A disk that hangs costs one reading, and does not prevent the use of other disks.
func TestADiskThatHangsDoesNotPreventTheUseOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		hung := m.plug("vda", blockdev.KindVirtioBlk, "", volume.GiB)
		hung.holdSerial = make(chan struct{})
		m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		started := time.Now()
		for range 3 {
			conn, err := newConnector(t, m).Connect(t.Context(), volume.ConnectRequest{ID: uuid})
			if err != nil || conn.Path != "/dev/vdb" {
				t.Errorf("connection %+v, error %v; want /dev/vdb", conn, err)
			}
		}
		if took := time.Since(started); took > 3*serialTimeout {
			t.Errorf("took %s", took)
		}
		close(hung.holdSerial)
	})
}

// The readings of disks that do not answer run concurrently.
func TestManyDisksWithoutAnswerTakeNoLongerThanOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		for i := range 10 {
			m.plug(fmt.Sprint("vd", i), blockdev.KindVirtioBlk, "", volume.GiB).holdSerial = make(chan struct{})
		}
		m.plug("vdz", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		connector := newConnector(t, m)
		started := time.Now()
		conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		if took := time.Since(started); err != nil || conn.Path != "/dev/vdz" || took > serialTimeout {
			t.Errorf("%+v, %v after %s", conn, err, took)
		}
		// A call that has less time than that ends with it.
		m.unplug("vdz")
		ctx, cancel := context.WithTimeout(t.Context(), serialTimeout/2)
		defer cancel()
		started = time.Now()
		_, _, err = connector.Locate(ctx, uuid)
		volumetest.WantKind(t, err, volume.KindDeadline, "/dev/vd0", "/dev/vd9")
		if took := time.Since(started); took > serialTimeout/2 {
			t.Errorf("took %s of %s", took, serialTimeout/2)
		}
		for _, d := range m.disks {
			close(d.holdSerial)
		}
	})
}

// A disk that does not answer may be the volume's: a Disconnect that takes it for gone would not
// flush it.
func TestADiskWithoutAnswerIsNotMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		slow := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		slow.holdSerial = make(chan struct{})
		connector := newConnector(t, m)
		_, ok, err := connector.Locate(t.Context(), uuid)
		volumetest.WantKind(t, err, volume.KindDeadline, "/dev/vdb", "not answer")
		if ok {
			t.Error("connected")
		}
		volumetest.WantKind(t, connector.Disconnect(t.Context(), uuid), volume.KindDeadline, "/dev/vdb")
		close(slow.holdSerial)
		if _, ok, err := connector.Locate(t.Context(), uuid); err != nil || !ok {
			t.Errorf("connected %t, error %v; want connected", ok, err)
		}
		// One that is known is not kept from anything by one that hangs.
		other := m.plug("vdc", blockdev.KindVirtioBlk, "", volume.GiB)
		other.holdSerial = make(chan struct{})
		if _, ok, err := connector.Locate(t.Context(), uuid); err != nil || !ok {
			t.Errorf("connected %t, error %v; want connected", ok, err)
		}
		if err := connector.Disconnect(t.Context(), uuid); err != nil || slow.flushed != 1 {
			t.Errorf("%v, flushed %d times", err, slow.flushed)
		}
		close(other.holdSerial)
	})
}

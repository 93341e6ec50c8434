package attached

import (
	"fmt"
	"testing"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// No disk belongs to an id that Cinder cannot have given, whatever serial it shows.
func TestIDsThatAreNoUUIDsAreUnknown(t *testing.T) {
	m := &fakeMachine{}
	for i, id := range []string{
		"QM00001", uuid[:20], uuid + "0", "../../etc/passwd", "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9dxx",
	} {
		d := m.plug(fmt.Sprint("vd", i), blockdev.KindSCSI, id, volume.GiB)
		connector := newConnector(t, m)
		_, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: id})
		volumetest.WantKind(t, err, volume.KindNotFound, "UUID")
		_, ok, err := connector.Locate(t.Context(), id)
		volumetest.WantKind(t, err, volume.KindNotFound, "UUID")
		volumetest.WantKind(t, connector.Verify(t.Context(), id, d.Path), volume.KindPrecondition, d.Path)
		if err := connector.Disconnect(t.Context(), id); ok || err != nil || d.flushed != 0 {
			t.Errorf("%q: connected %t, %v, flushed %d times", id, ok, err, d.flushed)
		}
	}
	for _, connect := range []func(c *Connector) error{
		func(c *Connector) error {
			_, err := c.Connect(t.Context(), volume.ConnectRequest{})
			return err
		},
		func(c *Connector) error {
			_, _, err := c.Locate(t.Context(), "")
			return err
		},
	} {
		volumetest.WantKind(t, connect(newConnector(t, m)), volume.KindInvalid, "empty")
	}
}

func TestLocateDoesNotWait(t *testing.T) {
	m := &fakeMachine{}
	connector := newConnector(t, m)
	if _, ok, err := connector.Locate(t.Context(), uuid); ok || err != nil {
		t.Errorf("not plugged in: %t, %v", ok, err)
	}
	d := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], 0)
	if _, ok, err := connector.Locate(t.Context(), uuid); ok || err != nil {
		t.Errorf("on its way out: %t, %v", ok, err)
	}
	d.sizeErr = errHardware
	if _, ok, err := connector.Locate(t.Context(), uuid); ok || err == nil {
		t.Errorf("unusable: %t, %v", ok, err)
	}
}

func TestNodeReturnsTheDescription(t *testing.T) {
	if info, err := newConnector(t, &fakeMachine{}).Node(t.Context()); err != nil || info.MaxVolumes != 7 {
		t.Errorf("node %+v, error %v; want 7 volumes", info, err)
	}
	if _, err := New(Options{}); !volume.IsKind(err, volume.KindInvalid) {
		t.Errorf("New without devices: error %v, want kind Invalid", err)
	}
}

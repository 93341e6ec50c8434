package attached

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// Two disks with the volume's serial are never a choice, unless one of them is the
// volume's old disk, which goes.
func TestSeveralDisksOfOneSerialAreAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{}
		m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
		connector := newConnector(t, m)
		_, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		volumetest.WantKind(t, err, volume.KindPrecondition, "/dev/vdb", "/dev/vdc", "20 characters")
		_, _, err = connector.Locate(t.Context(), uuid)
		volumetest.WantKind(t, err, volume.KindPrecondition, "/dev/vdb", "/dev/vdc")
		volumetest.WantKind(t, connector.Disconnect(t.Context(), uuid), volume.KindPrecondition, "/dev/vdb", "/dev/vdc")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = connector.Connect(ctx, volume.ConnectRequest{ID: uuid})
		// not "no disk"
		volumetest.WantKind(t, err, volume.KindDeadline, "/dev/vdc", "several disks", "about to be unplugged")

		time.AfterFunc(time.Second, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.unplug("vdb")
		})
		conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid})
		if err != nil || conn.Path != "/dev/vdc" {
			t.Errorf("plugged in again: %+v, %v", conn, err)
		}
		// A disk without a size does not count, in any order.
		m.plug("vdd", blockdev.KindVirtioBlk, uuid[:20], 0)
		if conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil ||
			conn.Path != "/dev/vdc" {
			t.Errorf("connection %+v, error %v; want /dev/vdc", conn, err)
		}
		slices.Reverse(m.disks)
		if conn, err := connector.Connect(t.Context(), volume.ConnectRequest{ID: uuid}); err != nil ||
			conn.Path != "/dev/vdc" {
			t.Errorf("connection %+v, error %v; want /dev/vdc", conn, err)
		}
	})
}

// The old disk of a volume that was plugged in again may take some time to go: Connect, Locate and
// Disconnect wait for that.
func TestTwoDisksOfOneSerialAreAwaited(t *testing.T) {
	for name, call := range map[string]func(ctx context.Context, c *Connector) error{
		"connect": func(ctx context.Context, c *Connector) error {
			conn, err := c.Connect(ctx, volume.ConnectRequest{ID: uuid})
			if err == nil && conn.Path != "/dev/vdc" {
				err = fmt.Errorf("connected %s", conn.Path)
			}
			return err
		},
		"locate": func(ctx context.Context, c *Connector) error {
			conn, ok, err := c.Locate(ctx, uuid)
			if err == nil && (!ok || conn.Path != "/dev/vdc") {
				err = fmt.Errorf("located %s, %t", conn.Path, ok)
			}
			return err
		},
		"disconnect": func(ctx context.Context, c *Connector) error { return c.Disconnect(ctx, uuid) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &fakeMachine{}
				m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				connector := newConnector(t, m)
				// A call that ends before settleGrace does not decide.
				ctx, cancel := context.WithTimeout(t.Context(), settleGrace/2)
				defer cancel()
				volumetest.WantKind(t, call(ctx, connector), volume.KindDeadline, "/dev/vdb", "/dev/vdc", "next step")
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(settleGrace/2, cancel)
				volumetest.WantKind(t, call(ctx, connector), volume.KindCanceled, "/dev/vdb", "/dev/vdc")
				// Two that stay want a person.
				started := time.Now()
				volumetest.WantKind(t, call(t.Context(), connector), volume.KindPrecondition, "/dev/vdb", "/dev/vdc",
					"detach the other")
				if took := time.Since(started); took < settleGrace || took > settleGrace+2*maxPollInterval {
					t.Errorf("judged after %s", took)
				}
				time.AfterFunc(settleGrace-maxPollInterval, func() {
					m.mu.Lock()
					defer m.mu.Unlock()
					m.unplug("vdb")
				})
				if err := call(t.Context(), connector); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A disk with the same serial that no longer answers is still there: the other disk is not chosen
// before it has answered, or is gone.
func TestADiskOfTheSameSerialWithoutAnswerIsStillThere(t *testing.T) {
	for name, c := range map[string]struct {
		after  func(m *fakeMachine, sameSerial *fakeDisk) // runs after some listings without its answer
		chosen bool
	}{
		"stays": {func(*fakeMachine, *fakeDisk) {}, false},
		"goes":  {func(m *fakeMachine, _ *fakeDisk) { m.unplug("vdb") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &fakeMachine{}
				sameSerial := m.plug("vdb", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				m.plug("vdc", blockdev.KindVirtioBlk, uuid[:20], volume.GiB)
				m.onList = func(m *fakeMachine) {
					switch m.listings {
					case 2:
						sameSerial.holdSerial = make(chan struct{})
					case 3:
						c.after(m, sameSerial)
					}
				}
				conn, err := newConnector(t, m).Connect(t.Context(), volume.ConnectRequest{ID: uuid})
				if c.chosen {
					if err != nil || conn.Path != "/dev/vdc" {
						t.Errorf("connection %+v, error %v; want /dev/vdc", conn, err)
					}
				} else {
					volumetest.WantKind(t, err, volume.KindPrecondition, "/dev/vdb", "/dev/vdc")
				}
				close(sameSerial.holdSerial)
			})
		})
	}
}

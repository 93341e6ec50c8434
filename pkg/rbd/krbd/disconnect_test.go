package krbd

import (
	"context"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestDisconnectWaitsForShortUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMachine(t)
		c := m.newConnector(t.TempDir(), nil)
		mustConnect(t, c, published())
		d := m.device("0")
		d.users = 1
		err := c.Disconnect(t.Context(), volumeID)
		volumetest.WantKind(t, err, volume.KindPrecondition)
		if !strings.Contains(err.Error(), "by a test") {
			t.Errorf("the error %v does not name the user", err)
		}
		m.wantMapped("0")
		d.users, d.staysBusy = 0, 3
		if err := c.Disconnect(t.Context(), volumeID); err != nil {
			t.Error(err)
		}
		m.wantMapped()
		if d.flushes == 0 {
			t.Error("the device was not flushed")
		}
	})
}

func TestDisconnectKeepsADeviceThatCannotBeFlushed(t *testing.T) {
	m := newFakeMachine(t)
	c := m.newConnector(t.TempDir(), nil)
	mustConnect(t, c, published())
	m.device("0").flushErr = unix.EIO
	if err := c.Disconnect(t.Context(), volumeID); err == nil {
		t.Error("Disconnect succeeded although the data was not written")
	}
	m.wantMapped("0")
	m.fenced[m.client] = true // the data can never be written
	if err := c.Disconnect(t.Context(), volumeID); err != nil {
		t.Error(err)
	}
	m.wantMapped()
}

func TestDisconnectReportsAnUnmapThatFails(t *testing.T) {
	m := newFakeMachine(t)
	c := m.newConnector(t.TempDir(), nil)
	mustConnect(t, c, published())
	m.device("0").unmapErr = unix.EIO
	volumetest.WantKind(t, c.Disconnect(t.Context(), volumeID), volume.KindInternal, "cannot unmap /dev/rbd0")
	m.device("0").unmapErr, m.device("0").staysMapped = nil, true
	volumetest.WantKind(t, c.Disconnect(t.Context(), volumeID), volume.KindInternal, "still mapped")
	m.device("0").staysMapped = false
	if err := c.Disconnect(t.Context(), volumeID); err != nil {
		t.Error(err)
	}
	m.wantMapped()
}

// The kernel would use the object map of the old size for a larger image.
func TestObjectMapIsNotUsedWithAnotherSize(t *testing.T) {
	for features, wants := range map[string]map[bool]int{ // refreshes by read-only
		"0x5":  {false: 1, true: 1},
		"0x3d": {false: 0, true: 1},
	} {
		for readOnly, want := range wants {
			m := newFakeMachine(t)
			m.features = features
			c := m.newConnector(t.TempDir(), nil)
			req := published()
			req.ReadOnly = readOnly
			mustConnect(t, c, req)
			if err := c.RefreshDevice(t.Context(), volumeID); err != nil {
				t.Error(err)
			}
			if m.refreshes != want {
				t.Errorf("features %s, read-only %t: %d refreshes, want %d", features, readOnly, m.refreshes, want)
			}
			mustConnect(t, c, req) // also reports whether the mapping is fenced
			if m.refreshes != want+1 {
				t.Errorf("features %s, read-only %t: Connect made %d refreshes, want 1",
					features, readOnly, m.refreshes-want)
			}
			if err := c.Disconnect(t.Context(), volumeID); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestRefreshEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newFakeMachine(t)
		c := m.newConnector(t.TempDir(), nil)
		if err := c.RefreshDevice(t.Context(), volumeID); err != nil {
			t.Errorf("a volume that is not connected: %v", err)
		}
		mustConnect(t, c, published())
		before := m.refreshes
		m.holdFresh = make(chan struct{})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			volumetest.WantKind(t, c.RefreshDevice(ctx, volumeID), volume.KindDeadline)
			cancel()
		}
		m.mu.Lock()
		if n := m.refreshes - before; n != 1 {
			t.Errorf("%d refreshes hang, want 1", n)
		}
		m.mu.Unlock()
		close(m.holdFresh)
		if err := c.RefreshDevice(t.Context(), volumeID); err != nil {
			t.Error(err)
		}
	})
}

func TestVerify(t *testing.T) {
	m := newFakeMachine(t)
	m.imageIDs["rbd/other"] = "99"
	c := m.newConnector(t.TempDir(), nil)
	own, other := mustConnect(t, c, published()), mustConnect(t, c, volume.ConnectRequest{ID: "a/rbd/other"})
	if err := c.Verify(t.Context(), volumeID, own.Path); err != nil {
		t.Error(err)
	}
	for path, kind := range map[string]volume.Kind{
		other.Path: volume.KindPrecondition, "/dev/sda": volume.KindPrecondition, "/dev/rbd7": volume.KindInternal,
	} {
		volumetest.WantKind(t, c.Verify(t.Context(), volumeID, path), kind)
	}
	volumetest.WantKind(t, c.Verify(t.Context(), "a/rbd/never", own.Path), volume.KindPrecondition)
}

func TestSeveralMappingsAreNoGuess(t *testing.T) {
	m := newFakeMachine(t)
	for range 2 {
		if err := m.mapImage("10.0.0.1:6789 name=admin,secret=x rbd img -"); err != nil {
			t.Fatal(err)
		}
	}
	c := m.newConnector(t.TempDir(), nil)
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindPrecondition)
	if !strings.Contains(err.Error(), "/dev/rbd0") || !strings.Contains(err.Error(), "/dev/rbd1") {
		t.Errorf("the error %v does not name both devices", err)
	}
	m.wantMapped("0", "1")
}

func TestHealthNeedsTheKernelModule(t *testing.T) {
	m := newFakeMachine(t)
	c := m.newConnector(t.TempDir(), nil)
	if err := c.CheckHealth(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(m.dir); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, c.CheckHealth(t.Context()), volume.KindUnavailable)
	_, err := c.Connect(t.Context(), published())
	volumetest.WantKind(t, err, volume.KindUnavailable)
	if err := c.Disconnect(t.Context(), volumeID); err != nil {
		t.Errorf("nothing can be mapped: %v", err)
	}
}

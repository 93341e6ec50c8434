package loopdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A device without a file proves that the volume on it is gone, for whatever volume is
// asked. A device with another file, or another kind of device, never proves it.
func TestVerifyProvesGone(t *testing.T) {
	m, other := newMachine(t, ""), newMachine(t, "")
	ids := map[string]volume.Kind{
		m.id: volume.KindInternal, otherID: volume.KindNotFound, "../x": volume.KindNotFound, "": volume.KindNotFound,
	}
	// check returns how Verify differs from what is wanted; empty: it does not.
	check := func(path string, wantGone bool) (difference string) {
		for id, kind := range ids {
			err := m.connector.Verify(t.Context(), id, path)
			if errors.Is(err, volume.ErrGone) != wantGone || wantGone && volume.KindOf(err) != kind || err == nil {
				difference += fmt.Sprintf("volume %q on %s: got %v, want gone: %t; ", id, path, err, wantGone)
			}
		}
		return difference
	}
	disks, err := blockdev.New().Disks()
	if err != nil {
		t.Fatal(err)
	}
	paths := []string{other.connect(false).Path, "/dev/null"}
	if i := slices.IndexFunc(disks, func(d blockdev.Device) bool { return d.Kind != blockdev.KindLoop }); i >= 0 {
		paths = append(paths, disks[i].Path)
	}
	for _, path := range paths {
		if difference := check(path, false); difference != "" {
			t.Error(difference)
		}
	}
	// Another process of this machine may take the device before Verify reads it.
	difference := "not tried"
	for i := 0; i < 10 && difference != ""; i++ {
		path := m.connect(false).Path
		m.disconnect()
		difference = check(path, true)
	}
	if difference != "" {
		t.Error(difference)
	}
}

// slowStatusKernel answers with a device's status only after end is closed.
type slowStatusKernel struct {
	losetup.Kernel
	end chan struct{}
}

func (k slowStatusKernel) Status(dev *os.File) (*unix.LoopInfo64, error) {
	<-k.end
	return k.Kernel.Status(dev)
}

func TestCallsEndWhenDeviceDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "")
		path := m.connect(false).Path
		end := make(chan struct{})
		m.connector.loops.Kernel = slowStatusKernel{losetup.Linux{}, end}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, connected, err := m.connector.Locate(ctx, m.id)
		if volumetest.WantKind(t, err, volume.KindDeadline); connected {
			t.Error("located: got a connection, want none")
		}
		err = m.connector.Verify(ctx, m.id, path)
		if volumetest.WantKind(t, err, volume.KindDeadline); errors.Is(err, volume.ErrGone) {
			t.Errorf("verified: got %v, want it not to wrap ErrGone", err)
		}
		close(end)
	})
}

func TestVerifyComparesFiles(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	volumetest.WantKind(t, m.connector.Verify(t.Context(), m.create("b", volume.MiB), conn.Path), volume.KindPrecondition,
		conn.Path, m.id)
	volumetest.WantKind(t, m.connector.Verify(t.Context(), otherID, conn.Path), volume.KindNotFound)
	if err := m.connector.Verify(t.Context(), m.id, m.dataPath()); err == nil {
		t.Error("got success for the file itself, want an error: it is no device")
	}
	// Another file at the same path: the path proves nothing.
	data := m.dataPath()
	if err := os.Rename(data, data+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, m.connector.Verify(t.Context(), m.id, conn.Path), volume.KindPrecondition)
	m.wantNoDevice()
	if err := os.Rename(data+".old", data); err != nil {
		t.Fatal(err)
	}
}

// A device that shows a part of the file is not the volume.
func TestVerifyRefusesPartOfVolume(t *testing.T) {
	m := newMachine(t, "")
	path := m.connect(false).Path
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err == nil {
		info.Offset = 1 << 20
		err = unix.IoctlLoopSetStatus64(int(f.Fd()), info)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, m.connector.Verify(t.Context(), m.id, path), volume.KindPrecondition, "part")
	_, err = m.connector.Connect(t.Context(), volume.ConnectRequest{ID: m.id})
	volumetest.WantKind(t, err, volume.KindPrecondition, "part")
}

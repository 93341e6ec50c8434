package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// What proves that a device's content is gone: that it has lost its file, for
// whatever volume is asked. A device with another file never proves it.
func TestVerifyTellsWhatIsGone(t *testing.T) {
	m, foreign := newMachine(t, ""), newMachine(t, "")
	ids := map[string]volume.Kind{m.id: volume.KindInternal, volumes.id("none"): volume.KindNotFound, "../x": volume.KindNotFound, "": volume.KindNotFound}
	check := func(path string, gone bool) (bad string) {
		for id, kind := range ids {
			err := m.c.Verify(t.Context(), id, path)
			if errors.Is(err, volume.ErrGone) != gone || gone && volume.KindOf(err) != kind || err == nil {
				bad += fmt.Sprintf("volume %q on %s: gone %t wanted: %v; ", id, path, gone, err)
			}
		}
		return bad
	}
	if bad := check(foreign.connect(false).Path, false); bad != "" {
		t.Error(bad)
	}
	disks, err := blockdev.New().Disks()
	if err != nil {
		t.Fatal(err)
	}
	// Neither has a disk of another sort, where the machine has one.
	disks = slices.DeleteFunc(disks, func(d blockdev.Device) bool { return d.Kind == blockdev.KindLoop })
	for _, path := range []string{"/dev/null", slices.Concat(disks, []blockdev.Device{{Path: "/dev/null"}})[0].Path} {
		if bad := check(path, false); bad != "" {
			t.Error(bad)
		}
	}
	// Another program of this machine may take the device before it is looked at.
	bad := "not tried"
	for i := 0; i < 10 && bad != ""; i++ {
		path := m.connect(false).Path
		m.disconnect()
		bad = check(path, true)
	}
	if bad != "" {
		t.Error(bad)
	}
}

// A device that does not answer keeps nobody longer than the call lasts.
func TestSilentDevice(t *testing.T) {
	m := newMachine(t, "")
	path := m.connect(false).Path
	end := make(chan struct{})
	m.c.loops.kernel = slowStatus{linux{}, end}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, connected, err := m.c.Locate(ctx, m.id)
	wantKind(t, err, volume.KindDeadline)
	if err := m.c.Verify(ctx, m.id, path); connected || volume.KindOf(err) != volume.KindDeadline || errors.Is(err, volume.ErrGone) {
		t.Errorf("connected %t, verified %v", connected, err)
	}
	close(end)
}

// slowStatus is a kernel that does not tell a device's status before it is told to.
type slowStatus struct {
	kernel
	end chan struct{}
}

func (s slowStatus) Status(dev *os.File) (*unix.LoopInfo64, error) {
	<-s.end
	return s.kernel.Status(dev)
}

func TestVerify(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	other := create(t, m.b, "b", volume.MiB)
	wantKind(t, m.c.Verify(t.Context(), other.ID, conn.Path), volume.KindPrecondition, conn.Path, m.id)
	wantKind(t, m.c.Verify(t.Context(), volumes.id("none"), conn.Path), volume.KindNotFound)
	if err := m.c.Verify(t.Context(), m.id, m.b.store.data(volumes, m.id)); err == nil {
		t.Error("the file itself passes for the device")
	}
	// The same path, another file: the name is no proof.
	data := m.b.store.data(volumes, m.id)
	if err := os.Rename(data, data+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	wantKind(t, m.c.Verify(t.Context(), m.id, conn.Path), volume.KindPrecondition)
	if len(m.devices()) != 0 {
		t.Error("found by name only")
	}
	if err := os.Rename(data+".old", data); err != nil {
		t.Fatal(err)
	}
}

// A device that somebody else made of a part of the file is not the volume.
func TestPartOfTheVolume(t *testing.T) {
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
	wantKind(t, m.c.Verify(t.Context(), m.id, path), volume.KindPrecondition, "part")
	_, err = m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id})
	wantKind(t, err, volume.KindPrecondition, "part")
}

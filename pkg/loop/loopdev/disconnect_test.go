package loopdev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/looptest"
)

// slowSyncKernel ends a flush only after end is closed.
type slowSyncKernel struct {
	losetup.Kernel
	end chan struct{}
}

func (k slowSyncKernel) Sync(dev *os.File) error {
	<-k.end
	return k.Kernel.Sync(dev)
}

// A flush that takes longer than its call keeps the volume locked: retries and a new
// Connect wait for it instead of finding the device in use, and the controller cannot
// detach the volume.
func TestFlushContinuesAfterItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, deleted := range []bool{false, true} {
			m := newMachine(t, "")
			m.connect(false)
			d := m.devices()[0]
			if deleted {
				if err := deletions()["by the driver"](m); err != nil {
					t.Fatal(err)
				}
			}
			end := make(chan struct{})
			m.connector.loops.Kernel = slowSyncKernel{losetup.Linux{}, end}
			callBriefly := func(call func(ctx context.Context) error) error {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				return call(ctx)
			}
			disconnect := func(ctx context.Context) error { return m.connector.Disconnect(ctx, m.id) }
			volumetest.WantKind(t, callBriefly(disconnect), volume.KindDeadline, "flushing", "under way")
			volumetest.WantKind(t, callBriefly(disconnect), volume.KindDeadline, "earlier operation", "next step")
			volumetest.WantKind(t, callBriefly(func(ctx context.Context) error {
				_, err := m.connector.Connect(ctx, volume.ConnectRequest{ID: m.id})
				return err
			}), volume.KindDeadline, "earlier operation")
			if !deleted {
				detach := func(ctx context.Context) error { return m.backend.Detach(ctx, m.id, testNode) }
				volumetest.WantKind(t, callBriefly(detach), volume.KindInProgress)
			}
			time.AfterFunc(50*time.Millisecond, func() { close(end) })
			m.disconnect()
			wantReleased(t, d)
		}
	})
}

// Data that was written to the device is in the file after Disconnect.
func TestDisconnectFlushes(t *testing.T) {
	m := newMachine(t, "")
	const text, offset = "hello", 8192
	f, err := os.OpenFile(m.connect(false).Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(text), offset)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	m.disconnect()
	data, err := os.ReadFile(m.dataPath())
	if err != nil || string(data[offset:offset+len(text)]) != text {
		t.Errorf("file at byte %d: got %q, %v, want %q", offset, data[offset:offset+len(text)], err, text)
	}
}

func TestDisconnectFailsWhileMounted(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	dir := m.mount(conn.Path)
	volumetest.WantKind(t, m.connector.Disconnect(t.Context(), m.id), volume.KindPrecondition, conn.Path, dir)
	// The failed call has not told the kernel to detach the device after the unmount.
	if err := m.connector.Verify(t.Context(), m.id, conn.Path); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if d := m.devices(); len(d) != 1 || d[0].Path != conn.Path {
		t.Errorf("after the unmount: got devices %v, want %s", d, conn.Path)
	}
}

// While a program has the device open, LOOP_CLR_FD succeeds but has no effect; Disconnect
// waits for the program to close the device.
func TestDisconnectWaitsForOpener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "")
		conn := m.connect(false)
		f, err := os.Open(conn.Path)
		if err != nil {
			t.Fatal(err)
		}
		volumetest.WantKind(t, m.connector.Disconnect(t.Context(), m.id), volume.KindDeadline,
			conn.Path, "still has", "open", "next step")
		if n := len(m.devices()); n != 1 {
			t.Errorf("got %d devices, want 1", n)
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = f.Close() })
		if err := m.connector.Disconnect(t.Context(), m.id); err != nil {
			t.Error(err)
		}
		m.wantNoDevice()
	})
}

// A program such as mkfs claims the device, but ends by itself: kind Deadline. The error names the
// process.
func TestDisconnectFailsWhileClaimed(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	claim, err := os.OpenFile(conn.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	volumetest.WantKind(t, m.connector.Disconnect(t.Context(), m.id), volume.KindDeadline,
		conn.Path, fmt.Sprintf("in use by process %d", os.Getpid()))
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
}

// The error for a mount in another mount namespace names the filesystem.
func TestDisconnectFailsWhileMountedInOtherNamespace(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	looptest.Run(t, "mkfs.ext4", "-q", conn.Path)
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation=private", "sh", "-c",
		"mount -t ext4 "+conn.Path+" "+t.TempDir()+" && echo mounted && read line")
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	_, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		volumetest.WantKind(t, m.connector.Disconnect(t.Context(), m.id), volume.KindPrecondition, conn.Path, "ext4")
	}
	_ = stdin.Close()
	end := cmd.Wait() // read fails at the end of its input
	if err != nil {
		t.Skipf("needs mounts: %v, %v", err, end)
	}
}

// Connect cancels the detachment that a failed Disconnect has left to the kernel: the
// volume keeps its device when the last program closes it.
func TestConnectCancelsFailedDisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "")
		conn := m.connect(false)
		f, err := os.Open(conn.Path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		volumetest.WantKind(t, m.connector.Disconnect(ctx, m.id), volume.KindDeadline, "under way")
		if again := m.connect(false); again != conn {
			t.Errorf("got %+v, want %+v", again, conn)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := m.connector.Verify(t.Context(), m.id, conn.Path); err != nil {
			t.Errorf("after the close: %v", err)
		}
	})
}

// TestReleaseLeavesTheFileOfAnotherVolume has a device that another volume got after the device
// was found.
func TestReleaseLeavesTheFileOfAnotherVolume(t *testing.T) {
	m := newMachine(t, "")
	f, err := os.Open(m.connect(false).Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.connector.flushAndClear(f, losetup.Device{Path: f.Name()}); !errors.Is(err, unix.ENXIO) {
		t.Errorf("got %v, want ENXIO", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(m.devices()); n != 1 {
		t.Errorf("got %d devices with the volume's file, want 1", n)
	}
}

package loop

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// slowSync is a kernel that does not end a flush before it is told to.
type slowSync struct {
	kernel
	end chan struct{}
}

func (s slowSync) Sync(dev *os.File) error {
	<-s.end
	return s.kernel.Sync(dev)
}

// A flush that takes longer than its call has the device for itself. The retry,
// and a new use of the volume, wait for it instead of finding the device in use;
// and nobody takes the volume away meanwhile.
func TestFlushOutlivesItsCall(t *testing.T) {
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
		m.c.loops.kernel = slowSync{linux{}, end}
		call := func(what func(ctx context.Context) error) error {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			return what(ctx)
		}
		disconnect := func(ctx context.Context) error { return m.c.Disconnect(ctx, m.id) }
		wantKind(t, call(disconnect), volume.KindDeadline, "flushing", "under way")
		wantKind(t, call(disconnect), volume.KindDeadline, "earlier operation", "next step")
		wantKind(t, call(func(ctx context.Context) error {
			_, err := m.c.Connect(ctx, volume.ConnectRequest{ID: m.id})
			return err
		}), volume.KindDeadline, "earlier operation")
		if !deleted {
			wantKind(t, call(func(ctx context.Context) error { return m.b.Detach(ctx, m.id, node) }), volume.KindInProgress)
		}
		time.AfterFunc(50*time.Millisecond, func() { close(end) })
		m.disconnect()
		lost(t, d)
	}
}

// What is written to the device is in the file after Disconnect.
func TestDisconnectFlushes(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	f, err := os.OpenFile(conn.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("hello"), 8192)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	m.disconnect()
	if got := content(t, m.b, volumes, m.id, 8192, 5); got != "hello" {
		t.Errorf("content %q", got)
	}
}

func TestDisconnectInUse(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	dir := m.mount(conn.Path)
	wantKind(t, m.c.Disconnect(t.Context(), m.id), volume.KindPrecondition, conn.Path, dir)
	// It was left in order: no detaching behind the user's back.
	if err := m.c.Verify(t.Context(), m.id, conn.Path); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	if m.devices()[0].path != conn.Path {
		t.Error("detached by the unmount")
	}

	// A program has the device open: LOOP_CLR_FD succeeds and does nothing. It will
	// close the device some time.
	f, err := os.Open(conn.Path)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, m.c.Disconnect(t.Context(), m.id), volume.KindDeadline, conn.Path, "still has", "open", "next step")
	if n := len(m.devices()); n != 1 {
		t.Errorf("%d devices", n)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = f.Close() })
	if err := m.c.Disconnect(t.Context(), m.id); err != nil { // waits until it is closed
		t.Error(err)
	}
	if left := m.devices(); len(left) != 0 {
		t.Errorf("left %v", left)
	}

	// So does one that has claimed it, such as mkfs.
	conn = m.connect(false)
	claim, err := os.OpenFile(conn.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, m.c.Disconnect(t.Context(), m.id), volume.KindDeadline, conn.Path, "claimed")
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
}

// A mount in another mount namespace stays, and is named by its filesystem.
func TestDisconnectWithAMountThatIsNotVisible(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	m.run("mkfs.ext4", "-q", conn.Path)
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation=private", "sh", "-c",
		"mount -t ext4 "+conn.Path+" "+t.TempDir()+" && echo mounted && read line")
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	_, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		wantKind(t, m.c.Disconnect(t.Context(), m.id), volume.KindPrecondition, conn.Path, "ext4")
	}
	_ = stdin.Close()
	end := cmd.Wait() // read fails at the end of its input
	if err != nil {
		t.Skipf("needs mounts: %v, %v", err, end)
	}
}

// A volume that is wanted again after a Disconnect in vain stays, though its
// last user closes the device.
func TestConnectAfterDisconnectInVain(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	f, err := os.Open(conn.Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantKind(t, m.c.Disconnect(ctx, m.id), volume.KindDeadline, "under way")
	if again := m.connect(false); again != conn {
		t.Errorf("%+v", again)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.c.Verify(t.Context(), m.id, conn.Path); err != nil {
		t.Errorf("it vanished: %v", err)
	}
}

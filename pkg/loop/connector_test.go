package loop

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// machine is a backend and a connector of one node with one attached volume.
type machine struct {
	*testing.T
	b  *Backend
	c  *Connector
	id string
}

func newMachine(t *testing.T, dir string) machine {
	t.Helper()
	needLoops(t)
	b := newBackend(t, func(o *Options) {
		if dir != "" {
			o.Dir = dir
		}
	})
	c, err := NewConnector(ConnectorOptions{Dir: b.opts.Dir, Node: node})
	if err != nil {
		t.Fatal(err)
	}
	m := machine{t, b, c, create(t, b, "a", 64*volume.MiB).ID}
	attach(t, b, m.id)
	t.Cleanup(func() {
		if err := c.Disconnect(context.WithoutCancel(t.Context()), m.id); err != nil {
			t.Errorf("leaves a loop device: %v", err)
		}
	})
	return m
}

func (m machine) connect(readOnly bool) volume.Connection {
	m.Helper()
	conn, err := m.c.Connect(m.Context(), volume.ConnectRequest{ID: m.id, ReadOnly: readOnly})
	if err != nil {
		m.Fatal(err)
	}
	return conn
}

func (m machine) disconnect() {
	m.Helper()
	if err := m.c.Disconnect(context.WithoutCancel(m.Context()), m.id); err != nil { // also when the test ends
		m.Fatal(err)
	}
}

// devices are the loop devices that have the volume's file.
func (m machine) devices() []device {
	m.Helper()
	devices, err := m.c.loops.bound(m.b.store.data(volumes, m.id))
	if err != nil {
		m.Fatal(err)
	}
	return devices
}

func (m machine) run(name string, args ...string) {
	m.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.Context()), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		m.Fatalf("%s %s: %v: %s", name, args, err, out)
	}
}

// mount mounts the device and returns the mount point.
func (m machine) mount(device string) string {
	m.Helper()
	dir := m.TempDir()
	m.run("mkfs.ext4", "-q", device)
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		m.Skipf("needs mounts: %v", err)
	}
	m.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}

func TestConnect(t *testing.T) {
	m := newMachine(t, "")
	if _, connected, err := m.c.Locate(t.Context(), m.id); err != nil || connected {
		t.Errorf("connected %t, %v", connected, err)
	}
	conn := m.connect(false)
	if conn.Size != 64*volume.MiB {
		t.Errorf("size %s", conn.Size)
	}
	sys := blockdev.New()
	d, err := sys.ByPath(conn.Path)
	if err != nil || d.Kind != blockdev.KindLoop {
		t.Fatalf("%+v, %v", d, err)
	}
	if size, err := sys.Size(d); err != nil || size != 64*volume.MiB {
		t.Errorf("%s, %v", size, err)
	}
	if ro, err := sys.IsReadOnly(d); err != nil || ro {
		t.Errorf("read-only %t, %v", ro, err)
	}
	if again := m.connect(false); again != conn {
		t.Errorf("connected again as %+v, before %+v", again, conn)
	}
	if found, connected, err := m.c.Locate(t.Context(), m.id); err != nil || !connected || found != conn {
		t.Errorf("%+v, %t, %v", found, connected, err)
	}
	if err := m.c.Verify(t.Context(), m.id, conn.Path); err != nil {
		t.Error(err)
	}
	for range 2 {
		m.disconnect()
	}
	if left := m.devices(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	if _, connected, err := m.c.Locate(t.Context(), m.id); err != nil || connected {
		t.Errorf("connected %t, %v", connected, err)
	}
	// It is not another volume's, it is nobody's; unless another program of this
	// machine is quicker, and then once more.
	err = m.c.Verify(t.Context(), m.id, conn.Path)
	for i := 0; i < 10 && volume.IsKind(err, volume.KindPrecondition); i++ {
		conn = m.connect(false)
		m.disconnect()
		err = m.c.Verify(t.Context(), m.id, conn.Path)
	}
	wantKind(t, err, volume.KindInternal, conn.Path, "no file")
	wantKind(t, m.c.Verify(t.Context(), m.id, "/dev/no-such-device"), volume.KindInternal)
}

func TestConnectReadOnly(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(true)
	sys := blockdev.New()
	d, err := sys.ByPath(conn.Path)
	if err != nil {
		t.Fatal(err)
	}
	if ro, err := sys.IsReadOnly(d); err != nil || !ro {
		t.Errorf("read-only %t, %v", ro, err)
	}
	// Nobody uses it, so it can be had for writing.
	conn = m.connect(false)
	if d, err = sys.ByPath(conn.Path); err != nil {
		t.Fatal(err)
	}
	if ro, err := sys.IsReadOnly(d); err != nil || ro {
		t.Errorf("read-only %t, %v", ro, err)
	}
	if n := len(m.devices()); n != 1 {
		t.Errorf("%d devices", n)
	}
	m.mount(conn.Path)
	_, err = m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id, ReadOnly: true})
	wantKind(t, err, volume.KindPrecondition, conn.Path)
}

func TestConnectRefusals(t *testing.T) {
	m := newMachine(t, "")
	other := create(t, m.b, "unattached", volume.MiB)
	_, err := m.c.Connect(t.Context(), volume.ConnectRequest{ID: other.ID})
	wantKind(t, err, volume.KindPrecondition, "not attached")
	_, err = m.c.Connect(t.Context(), volume.ConnectRequest{ID: volumes.id("none")})
	wantKind(t, err, volume.KindNotFound)
	_, err = m.c.Connect(t.Context(), volume.ConnectRequest{ID: "../volumes/" + m.id})
	wantKind(t, err, volume.KindNotFound)
	_, err = m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id, PublishContext: map[string]string{PublishSize: "many"}})
	wantKind(t, err, volume.KindInvalid)
	_, _, err = m.c.Locate(t.Context(), volumes.id("none"))
	wantKind(t, err, volume.KindNotFound)
	for _, id := range []string{"", "../x", volumes.id("none")} {
		if err := m.c.Disconnect(t.Context(), id); err != nil {
			t.Errorf("disconnect %q: %v", id, err)
		}
	}
	// More was published than the file has: the device is too small, and the
	// caller is told so.
	conn, err := m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id, PublishContext: map[string]string{PublishSize: "134217728"}})
	if err != nil || conn.Size != 128*volume.MiB || conn.PublishedSize != 128*volume.MiB {
		t.Errorf("%+v, %v", conn, err)
	}
	// What the volume has grown by since the attach is in Size alone.
	published := map[string]string{PublishSize: "67108864"}
	if _, err := m.b.Expand(t.Context(), m.id, 96*volume.MiB); err != nil {
		t.Fatal(err)
	}
	conn, err = m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id, PublishContext: published})
	if err != nil || conn.Size != 96*volume.MiB || conn.PublishedSize != 64*volume.MiB {
		t.Errorf("%+v, %v", conn, err)
	}
	if conn, _, err := m.c.Locate(t.Context(), m.id); err != nil || conn.Size != 96*volume.MiB || conn.PublishedSize != 0 {
		t.Errorf("located %+v, %v", conn, err)
	}
	info, err := m.c.Node(t.Context())
	if err != nil || info.Topology[TopologyKey] != node {
		t.Errorf("%+v, %v", info, err)
	}
}

// Growing the volume leaves the device as it is, until the node looks anew.
func TestExpandConnected(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	if _, err := m.b.Expand(t.Context(), m.id, 96*volume.MiB); err != nil {
		t.Fatal(err)
	}
	sys := blockdev.New()
	d, err := sys.ByPath(conn.Path)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := sys.Size(d); err != nil || size != 64*volume.MiB {
		t.Fatalf("the device grew by itself: %s, %v", size, err)
	}
	found, _, err := m.c.Locate(t.Context(), m.id)
	if err != nil || found.Size != 96*volume.MiB || found.Path != conn.Path {
		t.Errorf("%+v, %v", found, err)
	}
	if size, err := sys.AwaitSize(t.Context(), d, found.Size); err != nil || size != 96*volume.MiB {
		t.Errorf("%s, %v", size, err)
	}
}

// The controller neither deletes nor detaches what a node still has.
func TestConnectedVolumesStay(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	wantKind(t, m.b.Detach(t.Context(), m.id, ""), volume.KindPrecondition, conn.Path)
	wantKind(t, m.b.Delete(t.Context(), m.id), volume.KindPrecondition)

	// Where the controller cannot open the device, it goes by the path that
	// the kernel shows.
	m.b.loops.dev = t.TempDir()
	wantKind(t, m.b.Detach(t.Context(), m.id, ""), volume.KindPrecondition)
	m.b.loops.dev = "/dev"

	// Nor does it delete a volume that is connected without being attached.
	if err := m.b.store.detach(m.id); err != nil {
		t.Fatal(err)
	}
	wantKind(t, m.b.Delete(t.Context(), m.id), volume.KindPrecondition, conn.Path)

	m.disconnect()
	if err := errors.Join(m.b.Detach(t.Context(), m.id, ""), m.b.Delete(t.Context(), m.id)); err != nil {
		t.Error(err)
	}
}

func TestConcurrentConnect(t *testing.T) {
	m := newMachine(t, "")
	var group sync.WaitGroup
	found := make([]string, 20)
	for i := range found {
		group.Go(func() {
			conn, err := m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id})
			if err != nil {
				t.Error(err)
			}
			found[i] = conn.Path
		})
	}
	group.Wait()
	if found = slices.Compact(found); len(found) != 1 || len(m.devices()) != 1 {
		t.Errorf("devices %v", found)
	}
}

// racing is a kernel in which others are faster: the free device that it names
// is taken.
type racing struct {
	kernel
	taken int
	times int
}

func (r *racing) GetFree(control *os.File) (int, error) {
	if r.times > 0 {
		r.times--
		return r.taken, nil
	}
	return r.kernel.GetFree(control)
}

func TestConnectRace(t *testing.T) {
	m, other := newMachine(t, ""), newMachine(t, "")
	taken := m.connect(false).Path
	n := 0
	for _, r := range strings.TrimPrefix(taken, "/dev/loop") {
		n = 10*n + int(r-'0')
	}
	other.c.loops.kernel = &racing{kernel: linux{}, taken: n, times: 5}
	if conn := other.connect(false); conn.Path == taken {
		t.Error("took a device that has a file")
	}
	other.disconnect()
	other.c.loops.kernel = &racing{kernel: linux{}, taken: n, times: 1000}
	_, err := other.c.Connect(t.Context(), volume.ConnectRequest{ID: other.id})
	wantKind(t, err, volume.KindUnavailable, "attempts")
}

// old is a kernel before 5.8.
type old struct{ kernel }

func (old) Configure(*os.File, *unix.LoopConfig) error { return unix.EINVAL }

func TestConnectOnOldKernels(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		m := newMachine(t, "")
		m.c.loops.kernel = old{linux{}}
		conn := m.connect(readOnly)
		if devices := m.devices(); len(devices) != 1 || devices[0].readOnly != readOnly || devices[0].path != conn.Path {
			t.Errorf("read-only %t: %+v", readOnly, devices)
		}
		m.disconnect()
	}
}

// halfway is an old kernel that fails the second step.
type halfway struct{ old }

func (halfway) SetStatus(*os.File, *unix.LoopInfo64) error { return unix.EIO }

func TestConnectHalfway(t *testing.T) {
	m := newMachine(t, "")
	m.c.loops.kernel = halfway{old{linux{}}}
	_, err := m.c.Connect(t.Context(), volume.ConnectRequest{ID: m.id})
	if left := m.devices(); !errors.Is(err, unix.EIO) || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

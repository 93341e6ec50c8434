package loopdev

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// wantDevice fails the test unless the path is a loop device of this size and read-only
// state, by what the kernel shows.
func (m machine) wantDevice(path string, size volume.Size, readOnly bool) blockdev.Device {
	m.Helper()
	sys := blockdev.New()
	d, err := sys.ByPath(path)
	if err != nil || d.Kind != blockdev.KindLoop {
		m.Fatalf("%s: got device %+v, %v, want a loop device", path, d, err)
	}
	if got, err := sys.Size(d); err != nil || got != size {
		m.Errorf("%s: got size %s, %v, want %s", path, got, err, size)
	}
	if got, err := sys.IsReadOnly(d); err != nil || got != readOnly {
		m.Errorf("%s: got read-only %t, %v, want %t", path, got, err, readOnly)
	}
	return d
}

// wantLocated fails the test unless Locate finds this connection; the zero value: none.
func (m machine) wantLocated(want volume.Connection) {
	m.Helper()
	got, connected, err := m.connector.Locate(m.Context(), m.id)
	if err != nil || got != want || connected != (want.Path != "") {
		m.Errorf("located: got %+v, connected %t, %v, want %+v", got, connected, err, want)
	}
}

func TestConnectAndDisconnect(t *testing.T) {
	m := newMachine(t, "")
	m.wantLocated(volume.Connection{})
	conn := m.connect(false)
	if conn.Size != 64*volume.MiB {
		t.Errorf("got size %s, want 64 MiB", conn.Size)
	}
	m.wantDevice(conn.Path, 64*volume.MiB, false)
	if again := m.connect(false); again != conn {
		t.Errorf("second connect: got %+v, want %+v", again, conn)
	}
	m.wantLocated(conn)
	if err := m.connector.Verify(t.Context(), m.id, conn.Path); err != nil {
		t.Error(err)
	}
	for range 2 {
		m.disconnect()
	}
	m.wantNoDevice()
	m.wantLocated(volume.Connection{})
	// The device has no file now. If another process of this machine has taken the device
	// in the meantime (kind Precondition), the check is repeated with another device.
	err := m.connector.Verify(t.Context(), m.id, conn.Path)
	for i := 0; i < 10 && volume.IsKind(err, volume.KindPrecondition); i++ {
		conn = m.connect(false)
		m.disconnect()
		err = m.connector.Verify(t.Context(), m.id, conn.Path)
	}
	volumetest.WantKind(t, err, volume.KindInternal, conn.Path, "no file")
	volumetest.WantKind(t, m.connector.Verify(t.Context(), m.id, "/dev/no-such-device"), volume.KindInternal)
}

func TestConnectReadOnly(t *testing.T) {
	m := newMachine(t, "")
	m.wantDevice(m.connect(true).Path, 64*volume.MiB, true)
	// The device is not in use, so Connect replaces it by one that can be written to.
	conn := m.connect(false)
	m.wantDevice(conn.Path, 64*volume.MiB, false)
	if n := len(m.devices()); n != 1 {
		t.Errorf("got %d devices with the volume's file, want 1", n)
	}
	m.mount(conn.Path)
	_, err := m.connector.Connect(t.Context(), volume.ConnectRequest{ID: m.id, ReadOnly: true})
	volumetest.WantKind(t, err, volume.KindPrecondition, conn.Path)
}

// The node decides whether the device can be written to, not the access mode of the
// attachment: a filesystem that is only read may need its journal replayed first.
func TestConnectIgnoresReadOnlyAttachment(t *testing.T) {
	m := newMachine(t, "")
	if err := m.backend.Detach(t.Context(), m.id, testNode); err != nil {
		t.Fatal(err)
	}
	_, err := m.backend.Attach(t.Context(), volume.AttachRequest{
		VolumeID: m.id, Node: testNode, ReadOnly: true, Access: volume.Access{Mode: volume.AccessSingleNodeReaderOnly},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true, false} { // an unused device is replaced
		m.connect(readOnly)
		if d := m.devices(); len(d) != 1 || d[0].ReadOnly != readOnly {
			t.Errorf("got %+v, want one device, read-only %t", d, readOnly)
		}
	}
	m.mount(m.devices()[0].Path)
	_, err = m.connector.Connect(t.Context(), volume.ConnectRequest{ID: m.id, ReadOnly: true})
	volumetest.WantKind(t, err, volume.KindPrecondition, "read-only=false, not true", "in use")
	m.connect(false)
}

func TestConnectRefusesInvalidRequests(t *testing.T) {
	m := newMachine(t, "")
	for name, test := range map[string]struct {
		req  volume.ConnectRequest
		kind volume.Kind
		word string
	}{
		"not attached": {
			volume.ConnectRequest{ID: m.create("unattached", volume.MiB)}, volume.KindPrecondition, "not attached",
		},
		"no volume": {volume.ConnectRequest{ID: otherID}, volume.KindNotFound, ""},
		"a path":    {volume.ConnectRequest{ID: "../volumes/" + m.id}, volume.KindNotFound, ""},
		"bad size": {
			volume.ConnectRequest{
				ID: m.id, PublishContext: map[string]string{loopcsi.ContextSize: "many"},
			}, volume.KindInvalid, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.connector.Connect(t.Context(), test.req)
			volumetest.WantKind(t, err, test.kind, test.word)
		})
	}
	_, _, err := m.connector.Locate(t.Context(), otherID)
	volumetest.WantKind(t, err, volume.KindNotFound)
	for _, id := range []string{"", "../x", otherID} {
		if err := m.connector.Disconnect(t.Context(), id); err != nil {
			t.Errorf("disconnect %q: %v", id, err)
		}
	}
}

// The connection has the larger of the published size and the file's size, so that the
// caller notices a device that is too small.
func TestConnectionSize(t *testing.T) {
	m := newMachine(t, "")
	wantSizes := func(published, size volume.Size) {
		t.Helper()
		publish := map[string]string{loopcsi.ContextSize: strconv.FormatInt(published.Bytes(), 10)}
		conn, err := m.connector.Connect(t.Context(), volume.ConnectRequest{ID: m.id, PublishContext: publish})
		if err != nil || conn.Size != size || conn.PublishedSize != published {
			t.Errorf("got %+v, %v, want size %s, published size %s", conn, err, size, published)
		}
	}
	wantSizes(128*volume.MiB, 128*volume.MiB)
	if _, err := m.backend.Expand(t.Context(), m.id, 96*volume.MiB); err != nil {
		t.Fatal(err)
	}
	wantSizes(64*volume.MiB, 96*volume.MiB)
	if conn, _, err := m.connector.Locate(t.Context(), m.id); err != nil || conn.Size != 96*volume.MiB ||
		conn.PublishedSize != 0 {
		t.Errorf("located: got %+v, %v, want size 96 MiB and no published size", conn, err)
	}
}

func TestNodeHasTopology(t *testing.T) {
	c, err := New(Options{Dir: t.TempDir(), Node: testNode})
	if err != nil {
		t.Fatal(err)
	}
	info, err := c.Node(t.Context())
	if err != nil || info.Topology[loopcsi.TopologyKey] != testNode {
		t.Errorf("got %+v, %v, want the topology of %s", info, err, testNode)
	}
}

func TestNewNeedsDirectoryAndNode(t *testing.T) {
	_, err := New(Options{Node: testNode})
	volumetest.WantKind(t, err, volume.KindInvalid)
	_, err = New(Options{Dir: t.TempDir()})
	volumetest.WantKind(t, err, volume.KindInvalid)
}

// An expansion leaves the device unchanged until the node resizes the device.
func TestExpandKeepsDeviceSize(t *testing.T) {
	m := newMachine(t, "")
	conn := m.connect(false)
	if _, err := m.backend.Expand(t.Context(), m.id, 96*volume.MiB); err != nil {
		t.Fatal(err)
	}
	d := m.wantDevice(conn.Path, 64*volume.MiB, false)
	conn.Size = 96 * volume.MiB
	m.wantLocated(conn)
	if size, err := blockdev.New().AwaitSize(t.Context(), d, conn.Size); err != nil || size != 96*volume.MiB {
		t.Errorf("resized: got %s, %v, want 96 MiB", size, err)
	}
}

func TestConcurrentConnectsShareOneDevice(t *testing.T) {
	m := newMachine(t, "")
	var group sync.WaitGroup
	found := make([]string, 20)
	for i := range found {
		group.Go(func() {
			conn, err := m.connector.Connect(t.Context(), volume.ConnectRequest{ID: m.id})
			if err != nil {
				t.Error(err)
			}
			found[i] = conn.Path
		})
	}
	group.Wait()
	if found = slices.Compact(found); len(found) != 1 || len(m.devices()) != 1 {
		t.Errorf("got devices %v, want one", found)
	}
}

// busyKernel offers a device that is in use a number of times before it offers free ones:
// as if another process had been faster.
type busyKernel struct {
	losetup.Kernel
	device int
	times  int
}

func (k *busyKernel) GetFree(control *os.File) (int, error) {
	if k.times > 0 {
		k.times--
		return k.device, nil
	}
	return k.Kernel.GetFree(control)
}

func TestConnectSkipsDevicesThatOthersTake(t *testing.T) {
	m, other := newMachine(t, ""), newMachine(t, "")
	taken := m.connect(false).Path
	n, err := strconv.Atoi(strings.TrimPrefix(taken, "/dev/loop"))
	if err != nil {
		t.Fatal(err)
	}
	other.connector.loops.Kernel = &busyKernel{Kernel: losetup.Linux{}, device: n, times: 5}
	if conn := other.connect(false); conn.Path == taken {
		t.Errorf("got %s, which has another file", taken)
	}
	other.disconnect()
	other.connector.loops.Kernel = &busyKernel{Kernel: losetup.Linux{}, device: n, times: 1000}
	_, err = other.connector.Connect(t.Context(), volume.ConnectRequest{ID: other.id})
	volumetest.WantKind(t, err, volume.KindUnavailable, "attempts")
}

// oldKernel is a kernel before 5.8.
type oldKernel struct{ losetup.Kernel }

func (oldKernel) Configure(*os.File, *unix.LoopConfig) error { return unix.EINVAL }

func TestConnectWorksOnOldKernels(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		m := newMachine(t, "")
		m.connector.loops.Kernel = oldKernel{losetup.Linux{}}
		conn := m.connect(readOnly)
		if devices := m.devices(); len(devices) != 1 || devices[0].ReadOnly != readOnly || devices[0].Path != conn.Path {
			t.Errorf("got %+v, want %s, read-only %t", devices, conn.Path, readOnly)
		}
		m.disconnect()
	}
}

// brokenOldKernel is an old kernel in which the second of the two steps fails.
type brokenOldKernel struct{ oldKernel }

func (brokenOldKernel) SetStatus(*os.File, *unix.LoopInfo64) error { return unix.EIO }

func TestFailedConnectLeavesNoDevice(t *testing.T) {
	m := newMachine(t, "")
	m.connector.loops.Kernel = brokenOldKernel{oldKernel{losetup.Linux{}}}
	if _, err := m.connector.Connect(t.Context(), volume.ConnectRequest{ID: m.id}); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v, want EIO", err)
	}
	m.wantNoDevice()
}

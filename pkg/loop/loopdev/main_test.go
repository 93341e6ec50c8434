package loopdev

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/looptest"
)

// testNode is the node of the machines in tests.
const testNode = "node-1"

// otherID is the id of a volume that no test creates.
var otherID = volumedir.Volumes.ID("other")

// machine is both halves of the loop backend on one node, with one attached volume.
type machine struct {
	*testing.T
	backend   *loop.Backend
	connector *Connector
	id        string
}

// newMachine returns a machine whose volumes are in dir; empty: in a new directory.
func newMachine(t *testing.T, dir string) machine {
	t.Helper()
	looptest.NeedDevices(t)
	if dir == "" {
		dir = t.TempDir()
	}
	b, err := loop.New(t.Context(), loop.Options{Dir: dir, Node: testNode})
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Dir: dir, Node: testNode})
	if err != nil {
		t.Fatal(err)
	}
	m := machine{T: t, backend: b, connector: c}
	m.id = m.create("a", 64*volume.MiB)
	m.attach(m.id)
	t.Cleanup(m.disconnect)
	return m
}

// create creates a volume and returns its id.
func (m machine) create(name string, size volume.Size) (id string) {
	m.Helper()
	v, err := m.backend.Create(m.Context(), volume.CreateRequest{
		Name: name, Size: size, Range: volume.Range{Required: size},
	})
	if err != nil {
		m.Fatal(err)
	}
	return v.ID
}

func (m machine) attach(id string) {
	m.Helper()
	req := volume.AttachRequest{VolumeID: id, Node: testNode, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}}
	if _, err := m.backend.Attach(m.Context(), req); err != nil {
		m.Fatal(err)
	}
}

func (m machine) connect(readOnly bool) volume.Connection {
	m.Helper()
	conn, err := m.connector.Connect(m.Context(), volume.ConnectRequest{ID: m.id, ReadOnly: readOnly})
	if err != nil {
		m.Fatal(err)
	}
	return conn
}

func (m machine) disconnect() {
	m.Helper()
	// m's context has ended when this runs as a cleanup.
	if err := m.connector.Disconnect(context.WithoutCancel(m.Context()), m.id); err != nil {
		m.Fatal(err)
	}
}

// dataPath returns the path of the volume's file.
func (m machine) dataPath() string { return m.connector.dir.DataPath(volumedir.Volumes, m.id) }

// devices returns the loop devices that have the volume's file.
func (m machine) devices() []losetup.Device {
	m.Helper()
	devices, err := m.connector.loops.Find(m.dataPath())
	if err != nil {
		m.Fatal(err)
	}
	return devices
}

// wantNoDevice fails the test if a loop device has the volume's file.
func (m machine) wantNoDevice() {
	m.Helper()
	if devices := m.devices(); len(devices) != 0 {
		m.Errorf("got devices %v with the volume's file, want none", devices)
	}
}

// mount creates an ext4 on the device and returns its mount point.
func (m machine) mount(device string) string {
	m.Helper()
	dir := m.TempDir()
	looptest.Run(m.T, "mkfs.ext4", "-q", device)
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		m.Skipf("needs mounts: %v", err)
	}
	m.Cleanup(func() { _ = unix.Unmount(dir, 0) })
	return dir
}

// wantReleased fails the test if the device still has the file by which it was found. The
// device may have another file: other processes of the machine take free devices.
func wantReleased(t *testing.T, d losetup.Device) {
	t.Helper()
	status, err := losetup.New().Status(d.Path)
	if err == nil && d.HasFile(status) || err != nil && !errors.Is(err, unix.ENXIO) {
		t.Errorf("%s still has the volume's file (%v)", d.Path, err)
	}
}

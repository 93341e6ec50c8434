package blockdev

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// fakeMachine is a System over a fake sysfs tree, laid out as the kernel lays it out
// (links from dev/block into devices), and a fake kernel.
type fakeMachine struct {
	*System
	t    *testing.T
	root string
	fake *fakeKernel
}

func newFakeMachine(t *testing.T) *fakeMachine {
	t.Helper()
	root := t.TempDir()
	r := &fakeMachine{t: t, root: root, fake: &fakeKernel{nodes: map[string]*fakeDisk{}}}
	r.System = &System{
		sysfs: filepath.Join(root, "sys"), dev: filepath.Join(root, "dev"), kernel: r.fake,
	}
	return r
}

// addDevice makes a device below sys/devices and a node for it.
func (m *fakeMachine) addDevice(name, number string, size volume.Size, files map[string]string) *fakeDisk {
	m.t.Helper()
	base := filepath.Base(name)
	m.writeFile("sys/devices/"+name+"/dev", number+"\n")
	m.writeFile("sys/devices/"+name+"/uevent", "MAJOR=1\nDEVNAME="+base+"\n")
	for f, content := range files {
		m.writeFile("sys/devices/"+name+"/"+f, content)
	}
	m.link("sys/dev/block/"+number, "sys/devices/"+name)
	if _, partition := files["partition"]; !partition {
		m.link("sys/block/"+base, "sys/devices/"+name)
	}
	m.writeFile("dev/"+base, "")
	major, minor, err := parseDeviceNumber(number)
	if err != nil {
		m.t.Fatal(err)
	}
	d := &fakeDisk{major: major, minor: minor, size: func() volume.Size { return size }}
	m.fake.nodes[filepath.Join(m.root, "dev", base)] = d
	return d
}

func (m *fakeMachine) writeFile(path, content string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *fakeMachine) link(path, target string) {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(m.root, target), path); err != nil {
		m.t.Fatal(err)
	}
}

func (m *fakeMachine) readFile(path string) string {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

func (m *fakeMachine) mustFind(number string) Device {
	m.t.Helper()
	major, minor, err := parseDeviceNumber(number)
	if err != nil {
		m.t.Fatal(err)
	}
	d, err := m.ByNumber(major, minor)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// fakeDisk is what the kernel knows of a device.
type fakeDisk struct {
	major, minor uint32
	size         func() volume.Size
	readOnly     bool
	loopCapacity func() // LOOP_SET_CAPACITY
}

type fakeKernel struct {
	mu    sync.Mutex
	nodes map[string]*fakeDisk // by path
}

func (fk *fakeKernel) node(path string) (*fakeDisk, error) {
	fk.mu.Lock()
	defer fk.mu.Unlock()
	if d := fk.nodes[path]; d != nil {
		return d, nil
	}
	return nil, unix.ENOTBLK
}

func (fk *fakeKernel) Stat(path string) (DeviceNumber, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	d, err := fk.node(path)
	if err != nil {
		if _, missing := os.Lstat(path); missing != nil {
			err = missing // as stat(2) says it
		}
		return DeviceNumber{}, err
	}
	return DeviceNumber{d.major, d.minor}, nil
}

func (fk *fakeKernel) Fstat(f *os.File) (DeviceNumber, error) { return fk.Stat(f.Name()) }

func (fk *fakeKernel) Size(f *os.File) (int64, error) {
	d, err := fk.node(f.Name())
	if err != nil {
		return 0, err
	}
	return d.size().Bytes(), nil
}

func (fk *fakeKernel) BlockSize(f *os.File) (int, error) {
	_, err := fk.node(f.Name())
	return 512, err
}

func (fk *fakeKernel) IsReadOnly(f *os.File) (bool, error) {
	d, err := fk.node(f.Name())
	return err == nil && d.readOnly, err
}

func (fk *fakeKernel) SetReadOnly(f *os.File, readOnly bool) error {
	d, err := fk.node(f.Name())
	if err == nil {
		d.readOnly = readOnly
	}
	return err
}

func (fk *fakeKernel) SetLoopCapacity(f *os.File) error {
	d, err := fk.node(f.Name())
	if err != nil {
		return err
	}
	d.loopCapacity()
	return nil
}

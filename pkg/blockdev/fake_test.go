package blockdev

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// rig is a System over a fake sysfs tree, laid out as the kernel lays it out
// (links from dev/block into devices), and a fake kernel.
type rig struct {
	*System
	t    *testing.T
	root string
	fake *fakeKernel
}

func newRig(t *testing.T) *rig {
	t.Helper()
	root := t.TempDir()
	r := &rig{t: t, root: root, fake: &fakeKernel{nodes: map[string]*fakeDisk{}}}
	r.System = &System{
		sysfs: filepath.Join(root, "sys"), dev: filepath.Join(root, "dev"), kernel: r.fake,
	}
	return r
}

// add makes a device below sys/devices and a node for it.
func (r *rig) add(name, number string, size volume.Size, files map[string]string) *fakeDisk {
	r.t.Helper()
	base := filepath.Base(name)
	r.write("sys/devices/"+name+"/dev", number+"\n")
	r.write("sys/devices/"+name+"/uevent", "MAJOR=1\nDEVNAME="+base+"\n")
	for f, content := range files {
		r.write("sys/devices/"+name+"/"+f, content)
	}
	r.link("sys/dev/block/"+number, "sys/devices/"+name)
	if _, partition := files["partition"]; !partition {
		r.link("sys/block/"+base, "sys/devices/"+name)
	}
	r.write("dev/"+base, "")
	major, minor, err := parseNumber(number)
	if err != nil {
		r.t.Fatal(err)
	}
	d := &fakeDisk{major: major, minor: minor, size: func() volume.Size { return size }}
	r.fake.nodes[filepath.Join(r.root, "dev", base)] = d
	return d
}

func (r *rig) write(path, content string) {
	r.t.Helper()
	path = filepath.Join(r.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) link(path, target string) {
	r.t.Helper()
	path = filepath.Join(r.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(r.root, target), path); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(path string) string {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(r.root, path))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(data)
}

func (r *rig) device(number string) Device {
	r.t.Helper()
	major, minor, err := parseNumber(number)
	if err != nil {
		r.t.Fatal(err)
	}
	d, err := r.ByNumber(major, minor)
	if err != nil {
		r.t.Fatal(err)
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

func (k *fakeKernel) node(path string) (*fakeDisk, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.nodes[path]; d != nil {
		return d, nil
	}
	return nil, unix.ENOTBLK
}

func (k *fakeKernel) Stat(path string) (DeviceNumber, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	d, err := k.node(path)
	if err != nil {
		if _, missing := os.Lstat(path); missing != nil {
			err = missing // as stat(2) says it
		}
		return DeviceNumber{}, err
	}
	return DeviceNumber{d.major, d.minor}, nil
}

func (k *fakeKernel) Fstat(f *os.File) (DeviceNumber, error) { return k.Stat(f.Name()) }

func (k *fakeKernel) Size(f *os.File) (int64, error) {
	d, err := k.node(f.Name())
	if err != nil {
		return 0, err
	}
	return d.size().Bytes(), nil
}

func (k *fakeKernel) BlockSize(f *os.File) (int, error) {
	_, err := k.node(f.Name())
	return 512, err
}

func (k *fakeKernel) IsReadOnly(f *os.File) (bool, error) {
	d, err := k.node(f.Name())
	return err == nil && d.readOnly, err
}

func (k *fakeKernel) SetReadOnly(f *os.File, readOnly bool) error {
	d, err := k.node(f.Name())
	if err == nil {
		d.readOnly = readOnly
	}
	return err
}

func (k *fakeKernel) SetLoopCapacity(f *os.File) error {
	d, err := k.node(f.Name())
	if err != nil {
		return err
	}
	d.loopCapacity()
	return nil
}

package blockdev

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// fakeMachine is a System over a fake sysfs tree and a fake kernel. The tree has the
// layout of the real one: symbolic links in dev/block lead into devices.
type fakeMachine struct {
	*System
	t    *testing.T
	root string
	fake *fakeKernel
}

func newFakeMachine(t *testing.T) *fakeMachine {
	t.Helper()
	root := t.TempDir()
	m := &fakeMachine{t: t, root: root, fake: &fakeKernel{nodes: map[string]*fakeDisk{}}}
	m.System = &System{sysfs: filepath.Join(root, "sys"), dev: filepath.Join(root, "dev"), kernel: m.fake}
	return m
}

// newMachineWithDisks returns a machine that has a disk of each kind, of 1 GiB.
func newMachineWithDisks(t *testing.T) *fakeMachine {
	t.Helper()
	m := newFakeMachine(t)
	for _, subsystem := range []string{"bus/scsi", "bus/virtio", "class/nvme", "class/nvme-subsystem"} {
		m.writeFile("sys/"+subsystem+"/x", "")
	}
	const nvmeSubsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys1"
	m.addDevice("pci/host0/block/sda", "8:0", nil)
	m.link("sys/devices/pci/host0/block/sda/device", "sys/devices/pci/host0")
	m.link("sys/devices/pci/host0/subsystem", "sys/bus/scsi")
	m.addDevice("pci/host0/block/sda/sda1", "8:1", map[string]string{"partition": "1\n"})
	m.addDevice("pci/virtio1/block/vda", "252:0", map[string]string{"serial": "d25f9882-eb5a-41ea-8"})
	m.link("sys/devices/pci/virtio1/block/vda/device", "sys/devices/pci/virtio1")
	m.link("sys/devices/pci/virtio1/subsystem", "sys/bus/virtio")
	m.addDevice("pci/nvme0/nvme0n1", "259:0", nil)
	m.link("sys/devices/pci/nvme0/nvme0n1/device", "sys/devices/pci/nvme0")
	m.link("sys/devices/pci/nvme0/subsystem", "sys/class/nvme")
	m.writeFile("sys/devices/pci/nvme0/serial", "d25f9882-eb5a-41ea-8\n")
	m.addDevice("virtual/nvme-subsystem/nvme-subsys1/nvme1n1", "259:1", nil)
	m.link(nvmeSubsystem+"/nvme1n1/device", nvmeSubsystem)
	m.link(nvmeSubsystem+"/subsystem", "sys/class/nvme-subsystem")
	m.addDevice("virtual/block/loop0", "7:0", map[string]string{"loop/backing_file": "/pool/volumes/vol-1/data\n"})
	m.addDevice("rbd/0/block/rbd0", "251:0", nil)
	m.writeFile("sys/bus/rbd/devices/0/pool", "kubernetes\n")
	m.writeFile("sys/bus/rbd/devices/0/name", "volume-1\n")
	m.addDevice("virtual/block/dm-0", "253:0", map[string]string{
		"dm/uuid": "CRYPT-LUKS2-6d5c-luks\n", "dm/name": "luks\n",
	})
	m.link("sys/devices/virtual/block/dm-0/slaves/sda1", "sys/devices/pci/host0/block/sda/sda1")
	m.link("sys/devices/pci/host0/block/sda/sda1/holders/dm-0", "sys/devices/virtual/block/dm-0")
	m.addDevice("virtual/block/dm-1", "253:1", map[string]string{"dm/uuid": "mpath-3600\n"})
	m.link("sys/devices/virtual/block/dm-1/slaves/sda", "sys/devices/pci/host0/block/sda")
	m.link("sys/devices/virtual/block/dm-1/slaves/vda", "sys/devices/pci/virtio1/block/vda")
	m.addDevice("virtual/block/dm-2", "253:2", map[string]string{"dm/uuid": "LVM-x\n"})
	m.addDevice("virtual/block/md0", "9:0", map[string]string{"md/level": "raid1\n"})
	m.addDevice("virtual/block/zram0", "250:0", nil)
	return m
}

// addDevice makes a device of 1 GiB below sys/devices, with sysfs files, and its node.
func (m *fakeMachine) addDevice(name, number string, files map[string]string) *fakeDisk {
	m.t.Helper()
	base := filepath.Base(name)
	m.writeFile("sys/devices/"+name+"/dev", number+"\n")
	m.writeFile("sys/devices/"+name+"/uevent", "MAJOR=1\nDEVNAME="+base+"\n")
	for f, content := range files {
		m.writeFile("sys/devices/"+name+"/"+f, content)
	}
	m.link("sys/dev/block/"+number, "sys/devices/"+name)
	if _, isPartition := files["partition"]; !isPartition {
		m.link("sys/block/"+base, "sys/devices/"+name)
	}
	m.writeFile("dev/"+base, "")
	d := &fakeDisk{number: m.parseNumber(number), size: func() volume.Size { return volume.GiB }}
	m.fake.nodes[filepath.Join(m.dev, base)] = d
	return d
}

func (m *fakeMachine) parseNumber(text string) DeviceNumber {
	m.t.Helper()
	number, err := ParseNumber(text)
	if err != nil {
		m.t.Fatal(err)
	}
	return number
}

// writeFile writes a file below the root of the machine, and makes its directory.
func (m *fakeMachine) writeFile(path, content string) {
	m.t.Helper()
	if err := os.WriteFile(m.makeParent(path), []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *fakeMachine) link(path, target string) {
	m.t.Helper()
	if err := os.Symlink(filepath.Join(m.root, target), m.makeParent(path)); err != nil {
		m.t.Fatal(err)
	}
}

// makeParent makes the directory of a file and returns the full path of the file.
func (m *fakeMachine) makeParent(path string) string {
	m.t.Helper()
	path = filepath.Join(m.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *fakeMachine) readFile(path string) string {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

// removeWhileRead lets a device be removed when this file of it is read.
func (m *fakeMachine) removeWhileRead(path string) {
	m.fake.removedWhileRead = filepath.Join(m.root, path)
}

// mustFind returns the device of a number such as "8:0".
func (m *fakeMachine) mustFind(number string) Device {
	m.t.Helper()
	n := m.parseNumber(number)
	d, err := m.ByNumber(n.Major, n.Minor)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// diskOfNode returns the fake disk to which the node of d leads.
func (m *fakeMachine) diskOfNode(d Device) *fakeDisk { return m.fake.nodes[d.Path] }

// fakeDisk is what the fake kernel knows of a device.
type fakeDisk struct {
	number       DeviceNumber
	size         func() volume.Size
	readOnly     bool
	loopCapacity func() // LOOP_SET_CAPACITY
}

// fakeKernel answers the system calls on device nodes.
type fakeKernel struct {
	mu    sync.Mutex
	nodes map[string]*fakeDisk // by path
	// removedWhileRead is a file whose device is removed after it was opened.
	removedWhileRead string
}

func (fk *fakeKernel) ReadFile(path string) ([]byte, error) {
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if file == fk.removedWhileRead {
		return nil, &os.PathError{Op: "read", Path: path, Err: unix.ENODEV}
	}
	return os.ReadFile(file)
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
			err = missing // the error of stat(2)
		}
		return DeviceNumber{}, err
	}
	return d.number, nil
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

package krbd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	fakeFSID  = "6f1c0de1-5d2f-4c0e-8a53-0d6b0a3f7a11"
	fakeMajor = 252
	fakeKey   = "AQAiq3Bm58iKERAAOcuSR9Yzvdy7KpZ3pWuqZg=="
)

// fakeMachine is a kernel with rbd and the block devices that it makes. The bus is a directory in
// the form of the kernel's, which fakeMachine changes when its files are written to.
type fakeMachine struct {
	t   *testing.T
	dir string // "/sys/bus/rbd"

	mu        sync.Mutex
	imageIDs  map[string]string // by the name of the image
	devices   map[string]*fakeDevice
	next      int
	adds      []string // what was written to add_single_major
	addErrs   []error  // answers of the next writes; nil: success
	holdAdd   chan struct{}
	holdFresh chan struct{} // when set, no refresh ends before it is closed
	refreshes int
	client    string // address of the shared client
	features  string // of all images
	fenced    map[string]bool
}

// fakeDevice is one mapping.
type fakeDevice struct {
	blockdev.Device
	client      string
	readOnly    bool
	users       int  // programs that have it open
	claimed     bool // by a mount
	flushes     int
	flushErr    error
	staysBusy   int // how many unmaps fail although nothing uses it
	unmapErr    error
	staysMapped bool // an unmap has no effect, and reports none
}

func newFakeMachine(t *testing.T) *fakeMachine {
	t.Helper()
	m := &fakeMachine{
		t: t, dir: t.TempDir(), imageIDs: map[string]string{"rbd/img": "1022e45abd37"},
		devices: map[string]*fakeDevice{}, client: "10.0.0.7:0/11", features: "0x5", fenced: map[string]bool{},
	}
	m.writeFile("add_single_major", "")
	m.writeFile("remove_single_major", "")
	if err := os.MkdirAll(filepath.Join(m.dir, "devices"), 0o700); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *fakeMachine) writeFile(name, text string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// newConnector returns a connector of the machine; its records are in stateDir.
func (m *fakeMachine) newConnector(stateDir string, change func(*Options)) *Connector {
	m.t.Helper()
	o := Options{Clusters: fakeClusters{}, Devices: fakeDevices{m}, StateDir: stateDir}
	if change != nil {
		change(&o)
	}
	c, err := New(o)
	if err != nil {
		m.t.Fatal(err)
	}
	c.bus = bus{dir: m.dir, kernel: fakeKernel{m}}
	return c
}

// mapImage maps an image as the kernel does for the text of a write.
func (m *fakeMachine) mapImage(text string) error {
	fields := strings.Fields(text)
	options := strings.Split(fields[1], ",")
	namespace, name := optionValue(options, "_pool_ns"), fields[3]
	imageID, ok := m.imageIDs[imageName(fields[2], namespace, name, "")]
	if !ok {
		return unix.ENOENT
	}
	client := m.client
	if hasOption(options, "noshare") {
		client = fmt.Sprintf("10.0.0.7:0/%d", 1000+m.next)
	}
	if m.fenced[client] {
		return unix.ESHUTDOWN
	}
	snapID, id := "18446744073709551614", strconv.Itoa(m.next)
	if fields[4] != "-" {
		snapID = "4"
	}
	for file, content := range map[string]string{
		"cluster_fsid": fakeFSID, "pool_id": "3", "pool_ns": namespace, "image_id": imageID, "snap_id": snapID,
		"pool": fields[2], "name": name, "current_snap": fields[4], "client_addr": client, "config_info": text,
		"major": strconv.Itoa(fakeMajor), "minor": id, "features": m.features, "refresh": "",
	} {
		m.writeFile(filepath.Join("devices", id, file), content+"\n")
	}
	m.devices[id] = &fakeDevice{
		Device: blockdev.Device{
			Major: fakeMajor, Minor: uint32(m.next), Name: "rbd" + id, Path: "/dev/rbd" + id, Kind: blockdev.KindRBD,
		},
		client: client, readOnly: hasOption(options, "ro"),
	}
	m.next++
	return nil
}

func (m *fakeMachine) unmapDevice(id string) error {
	d := m.devices[id]
	switch {
	case d == nil:
		return unix.ENOENT
	case d.users > 0 || d.claimed:
		return unix.EBUSY
	case d.unmapErr != nil:
		return d.unmapErr
	case d.staysMapped:
		return nil
	case d.staysBusy > 0:
		d.staysBusy--
		return unix.EBUSY
	}
	delete(m.devices, id)
	return os.RemoveAll(filepath.Join(m.dir, "devices", id))
}

// device returns the device of a number, which must exist.
func (m *fakeMachine) device(id string) *fakeDevice {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.devices[id]
	if d == nil {
		m.t.Fatalf("/dev/rbd%s does not exist", id)
	}
	return d
}

// wantMapped checks which mappings exist, by their numbers.
func (m *fakeMachine) wantMapped(ids ...string) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var missing []string
	for _, id := range ids {
		if m.devices[id] == nil {
			missing = append(missing, id)
		}
	}
	if len(m.devices) != len(ids) || missing != nil {
		m.t.Errorf("mapped are %v, want %v", m.devices, ids)
	}
}

func (m *fakeMachine) addCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.adds)
}

// fakeKernel implements kernel.
type fakeKernel struct{ *fakeMachine }

func (k fakeKernel) WriteWithKey(path, text, keyName string, key []byte) error {
	k.mu.Lock()
	hold := k.holdAdd
	k.mu.Unlock()
	if hold != nil {
		<-hold
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.adds = append(k.adds, text)
	if filepath.Base(path) != "add_single_major" || !strings.Contains(text, "key="+keyName) || len(key) != 28 {
		k.t.Errorf("write of %q to %s with the key %s of %d bytes", text, path, keyName, len(key))
	}
	if len(k.addErrs) > 0 {
		err := k.addErrs[0]
		k.addErrs = k.addErrs[1:]
		if err != nil {
			return err
		}
	}
	return k.mapImage(text)
}

func (k fakeKernel) Write(path, text string) error {
	if filepath.Base(path) == "refresh" {
		return k.refresh(filepath.Base(filepath.Dir(path)))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unmapDevice(text)
}

func (k fakeKernel) refresh(id string) error {
	k.mu.Lock()
	k.refreshes++
	hold := k.holdFresh
	k.mu.Unlock()
	if hold != nil {
		<-hold
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[id]
	switch {
	case d == nil:
		return unix.ENOENT
	case k.fenced[d.client]:
		return unix.ESHUTDOWN
	}
	return nil
}

// fakeDevices implements Devices.
type fakeDevices struct{ *fakeMachine }

func (f fakeDevices) find(match func(*fakeDevice) bool) (*fakeDevice, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.devices {
		if match(d) {
			return d, nil
		}
	}
	return nil, volume.Errorf(volume.KindInternal, "no such device: %w", volume.ErrGone)
}

func (f fakeDevices) ByNumber(major, minor uint32) (blockdev.Device, error) {
	d, err := f.find(func(d *fakeDevice) bool { return d.Major == major && d.Minor == minor })
	if err != nil {
		return blockdev.Device{}, err
	}
	return d.Device, nil
}

func (f fakeDevices) ByPath(path string) (blockdev.Device, error) {
	if path == "/dev/sda" {
		return blockdev.Device{Major: 8, Name: "sda", Path: path, Kind: blockdev.KindSCSI}, nil
	}
	d, err := f.find(func(d *fakeDevice) bool { return d.Path == path })
	if err != nil {
		return blockdev.Device{}, err
	}
	return d.Device, nil
}

func (f fakeDevices) IsReadOnly(d blockdev.Device) (bool, error) {
	found, err := f.find(func(have *fakeDevice) bool { return have.Device == d })
	return err == nil && found.readOnly, err
}

func (f fakeDevices) Flush(_ context.Context, d blockdev.Device) error {
	found, err := f.find(func(have *fakeDevice) bool { return have.Device == d })
	if err != nil {
		return err
	}
	if found.claimed {
		return f.InUseError(d)
	}
	found.flushes++
	return found.flushErr
}

func (fakeDevices) InUseError(d blockdev.Device) error {
	return volume.Errorf(volume.KindPrecondition, "%s is still in use: by a test", d)
}

// fakeClusters implements Clusters: cluster "a" has a key.
type fakeClusters struct{}

func (fakeClusters) IDs() ([]string, error) { return []string{"a"}, nil }

func (fakeClusters) Read(id string) (cluster.Cluster, error) {
	if id != "a" && id != "" {
		return cluster.Cluster{}, volume.Errorf(volume.KindInvalid, "no cluster %s", id)
	}
	return cluster.Cluster{ID: "a", Monitors: []string{"10.0.0.1:6789", "10.0.0.2"}, User: "csi", Key: fakeKey}, nil
}

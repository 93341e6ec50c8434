package attached

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	uuid      = "d25f9882-eb5a-41ea-8d0c-7a1f0c0a9d11"
	otherUUID = "1c3e5a70-0b1d-4c8e-9a55-6f2b7d904e21"
)

// fakeDisk is one disk of a fakeMachine.
type fakeDisk struct {
	blockdev.Device
	serial          string
	size            volume.Size
	sizeErr         error         // what opening it gives, such as a missing device node
	holdSerial      chan struct{} // when set, its serial is not answered before it is closed
	readOnly        bool
	ignoresReadOnly bool // does not become read-only
	flushed         int
	flushErr        error
	holdFlush       chan struct{} // when set, no flush and no change of readOnly ends before it is closed
	claimed         bool          // by a flush, as by an exclusive open
}

// fakeMachine implements Devices. Disks come and go as a test says.
type fakeMachine struct {
	mu       sync.Mutex
	disks    []*fakeDisk
	listings int
	scans    int
	onList   func(m *fakeMachine) // called with the lock held
	onScan   func(m *fakeMachine)
	onFlush  func(m *fakeMachine)
	// onSerial is called when a serial is read, before the answer.
	onSerial func(m *fakeMachine)
	listErr  error // what listing the disks gives
}

func (m *fakeMachine) plug(name string, kind blockdev.Kind, serial string, size volume.Size) *fakeDisk {
	d := &fakeDisk{
		Device: blockdev.Device{Major: 252, Minor: uint32(len(m.disks)), Name: name, Path: "/dev/" + name, Kind: kind},
		serial: serial, size: size,
	}
	m.disks = append(m.disks, d)
	return d
}

func (m *fakeMachine) unplug(name string) {
	m.disks = slices.DeleteFunc(m.disks, func(d *fakeDisk) bool { return d.Name == name })
}

func (m *fakeMachine) findDisk(match func(*fakeDisk) bool) (*fakeDisk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.disks {
		if match(d) {
			return d, nil
		}
	}
	return nil, volume.Errorf(volume.KindInternal, "no such device: %w", volume.ErrGone)
}

func (m *fakeMachine) diskOf(d blockdev.Device) (*fakeDisk, error) {
	return m.findDisk(func(f *fakeDisk) bool { return f.Device == d })
}

func (m *fakeMachine) Disks() ([]blockdev.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listings++
	if m.onList != nil {
		m.onList(m)
	}
	var disks []blockdev.Device
	for _, d := range m.disks {
		disks = append(disks, d.Device)
	}
	return disks, m.listErr
}

func (m *fakeMachine) ByPath(path string) (blockdev.Device, error) {
	d, err := m.findDisk(func(f *fakeDisk) bool { return f.Path == path })
	if err != nil {
		return blockdev.Device{}, err
	}
	return d.Device, nil
}

func (m *fakeMachine) Serial(d blockdev.Device) (string, error) {
	f, err := m.diskOf(d)
	if err != nil {
		return "", err
	}
	if f.holdSerial != nil {
		<-f.holdSerial
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onSerial != nil {
		m.onSerial(m)
	}
	return f.serial, nil
}

func (m *fakeMachine) Size(d blockdev.Device) (volume.Size, error) {
	f, err := m.diskOf(d)
	if err != nil {
		return 0, err
	}
	return f.size, f.sizeErr
}

func (m *fakeMachine) IsReadOnly(d blockdev.Device) (bool, error) {
	f, err := m.diskOf(d)
	if err != nil {
		return false, err
	}
	return f.readOnly, nil
}

func (m *fakeMachine) SetReadOnly(d blockdev.Device, readOnly bool) error {
	f, err := m.diskOf(d)
	if err != nil {
		return err
	}
	if f.holdFlush != nil {
		<-f.holdFlush
	}
	if !f.ignoresReadOnly {
		f.readOnly = readOnly
	}
	return nil
}

// Flush has the disk open exclusively while it runs, and continues after its context has ended, as
// the real one does.
func (m *fakeMachine) Flush(ctx context.Context, d blockdev.Device) error {
	f, err := m.diskOf(d)
	if err != nil {
		return err
	}
	_, err = operation.AwaitCall(ctx, func() (struct{}, error) { return struct{}{}, m.flush(f) })
	return err
}

func (m *fakeMachine) flush(f *fakeDisk) error {
	m.mu.Lock()
	if f.claimed {
		m.mu.Unlock()
		return volume.Errorf(volume.KindDeadline, "%s is still in use by a program", f.Device)
	}
	f.claimed = true
	slow := f.holdFlush
	m.mu.Unlock()
	if slow != nil {
		<-slow
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f.claimed = false
	f.flushed++
	if m.onFlush != nil {
		m.onFlush(m)
	}
	return f.flushErr
}

func (m *fakeMachine) ScanSCSI(context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scans++
	if m.onScan != nil {
		m.onScan(m)
	}
	return 1, nil
}

func newConnector(t *testing.T, m *fakeMachine) *Connector {
	t.Helper()
	c, err := New(Options{
		Devices: m, Node: func(context.Context) (volume.NodeInfo, error) { return volume.NodeInfo{MaxVolumes: 7}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var errHardware = errors.New("hardware")

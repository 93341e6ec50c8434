package luks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// rig is a System over a fake kernel, for faults that a real kernel cannot be made to have. Its
// disk is a file with a real LUKS2 header.
type rig struct {
	*System
	t       *testing.T
	kernel  *fakeKernel
	disk    blockdev.Device
	mapping blockdev.Device
	header  Header
	name    string
}

const rigSize = 64 * volume.MiB

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	k := &fakeKernel{
		sizes: map[string]volume.Size{}, mappings: map[string]*fakeMapping{},
		devices: map[[2]uint32]blockdev.Device{},
	}
	r := &rig{
		t: t, kernel: k, header: Header{
			State: HeaderSound, UUID: "11111111-2222-3333-4444-555555555555", Offset: DataOffset,
			Sector: 512,
		},
		disk: blockdev.Device{Major: 8, Minor: 16, Name: "sdb", Path: filepath.Join(dir, "sdb"), Kind: blockdev.KindSCSI},
		mapping: blockdev.Device{
			Major: 253, Minor: 0, Name: "dm-0", Path: filepath.Join(dir, "dm-0"),
			Kind: blockdev.KindCrypt,
		},
		name: MappingName("vol"),
	}
	r.System = New(Options{})
	r.devices, r.run = k, func(context.Context, cryptsetupCommand) (string, error) {
		return "", errors.New("no program expected")
	}
	r.mapper, r.nodes, r.busyTimeout = k, filepath.Join(dir, "mapper"), time.Millisecond
	k.devices[[2]uint32{8, 16}] = r.disk
	k.sizes["sdb"] = rigSize
	if err := os.WriteFile(r.disk.Path, headerImage(r.header), 0o600); err != nil {
		t.Fatal(err)
	}
	return r
}

// open adds a mapping, as the kernel does for cryptsetup open.
func (r *rig) open() *fakeMapping {
	m := &fakeMapping{
		dmStatus: dmStatus{name: r.name, uuid: dmUUID(r.header.UUID, r.name), major: 253, hasTable: true},
		table:    cryptTable{length: rigSize - DataOffset, offset: DataOffset, sector: 512, major: 8, minor: 16},
	}
	r.kernel.mappings[r.name] = m
	r.kernel.devices[[2]uint32{253, 0}] = r.mapping
	return m
}

func (r *rig) request() OpenRequest {
	return OpenRequest{ID: "vol", Device: r.disk, Passphrase: []byte("hush")}
}

// fakeMapping is the kernel's state of a mapping.
type fakeMapping struct {
	dmStatus
	table cryptTable
}

// fakeKernel implements device mapper and the block layer.
type fakeKernel struct {
	devices  map[[2]uint32]blockdev.Device
	sizes    map[string]volume.Size // of disks, by name
	mappings map[string]*fakeMapping
	err      error // of each question to device mapper
	// hasNoSysfs: sysfs is not mounted, so that a device that is missing there is not proved gone.
	hasNoSysfs bool
	resumed    int
}

func (k *fakeKernel) ByNumber(major, minor uint32) (blockdev.Device, error) {
	d, ok := k.devices[[2]uint32{major, minor}]
	if !ok {
		err := fmt.Errorf("%w: %w", volume.ErrGone, os.ErrNotExist)
		if k.hasNoSysfs {
			err = os.ErrNotExist
		}
		return d, volume.Errorf(volume.KindInternal, "the kernel has no block device: %w", err)
	}
	return d, nil
}

func (k *fakeKernel) OpenFile(_ context.Context, d blockdev.Device) (*os.File, error) {
	return os.Open(d.Path)
}

func (k *fakeKernel) Size(d blockdev.Device) (volume.Size, error) {
	if m := k.find(d.Major, d.Minor); m != nil {
		return m.table.length, nil
	}
	return k.sizes[d.Name], nil
}

func (k *fakeKernel) Stack(d blockdev.Device) ([]blockdev.Device, error) {
	m := k.find(d.Major, d.Minor)
	if m == nil {
		return []blockdev.Device{d}, nil
	}
	below, err := k.ByNumber(m.table.major, m.table.minor)
	return []blockdev.Device{d, below}, err
}

func (k *fakeKernel) Holders(blockdev.Device) ([]blockdev.Device, error) { return nil, nil }

func (k *fakeKernel) find(major, minor uint32) *fakeMapping {
	for _, m := range k.mappings {
		if m.major == major && m.minor == minor {
			return m
		}
	}
	return nil
}

func (k *fakeKernel) isAvailable() bool { return true }

func (k *fakeKernel) status(name string) (dmStatus, bool, error) {
	m := k.mappings[name]
	if m == nil || k.err != nil {
		return dmStatus{}, false, k.err
	}
	return m.dmStatus, true, nil
}

func (k *fakeKernel) statusOf(major, minor uint32) (dmStatus, bool, error) {
	m := k.find(major, minor)
	if m == nil || k.err != nil {
		return dmStatus{}, false, k.err
	}
	return m.dmStatus, true, nil
}

func (k *fakeKernel) table(name string) (cryptTable, error) {
	m := k.mappings[name]
	if m == nil {
		return cryptTable{}, unix.ENXIO
	}
	return m.table, nil
}

func (k *fakeKernel) resume(name string) error {
	m := k.mappings[name]
	if m == nil {
		return unix.ENXIO
	}
	k.resumed++
	m.suspended = false
	return nil
}

func (k *fakeKernel) remove(uuid string) error {
	for name, m := range k.mappings {
		if m.uuid != uuid {
			continue
		}
		if m.openCount > 0 {
			return unix.EBUSY
		}
		delete(k.mappings, name)
		delete(k.devices, [2]uint32{m.major, m.minor})
		return nil
	}
	return unix.ENXIO
}

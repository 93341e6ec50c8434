package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Bus is how a disk is connected to the guest.
type Bus string

// The buses.
const (
	VirtioBlk Bus = "virtio-blk" // tells the guest of its growth; shows 20 characters of the serial
	// VirtioSCSI tells the guest of its growth; shows the whole serial.
	VirtioSCSI Bus = "virtio-scsi"
	// VirtioSCSISilent does not tell (param_change=off): the guest keeps the
	// old size until it rescans the disk.
	VirtioSCSISilent Bus = "virtio-scsi-silent"
	NVMe             Bus = "nvme" // shows 20 characters of the serial
)

// The ids of the SCSI controllers.
const (
	busTelling = "scsi-telling"
	busSilent  = "scsi-silent"
)

// plugTimeout bounds an exchange with QEMU and, for removal, with the guest's
// kernel.
const plugTimeout = 30 * time.Second

// Disk is a disk of the machine.
type Disk struct {
	Name   string // for the other methods; letters, digits and hyphens
	Bus    Bus
	Serial string // as Nova gives it: the whole volume id
	Size   volume.Size
}

// AddDisk plugs a blank disk in while the guest runs. The guest needs a moment
// to find it.
func (m *Machine) AddDisk(ctx context.Context, d Disk) (err error) {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	device, err := d.device()
	if err != nil {
		return err
	}
	path := m.file(d.Name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(d.Size.Bytes()), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	_, err = m.monitor.execute(ctx, "blockdev-add", map[string]any{
		"driver": "raw", "node-name": d.node(), "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": path, "discard": "unmap"},
	})
	if err != nil {
		return errors.Join(fmt.Errorf("add disk %s: %w", d.Name, err), os.Remove(path))
	}
	if _, err := m.monitor.execute(ctx, "device_add", device); err != nil {
		return errors.Join(fmt.Errorf("add disk %s: %w", d.Name, err), m.discard(ctx, d))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disks[d.Name] = d
	return nil
}

// device is the argument of device_add.
func (d Disk) device() (map[string]any, error) {
	const visible = 20
	device := map[string]any{"id": d.id(), "drive": d.node(), "serial": d.Serial}
	switch d.Bus {
	case VirtioBlk:
		device["driver"] = "virtio-blk-pci"
	case VirtioSCSI:
		device["driver"], device["bus"] = "scsi-hd", busTelling+".0"
	case VirtioSCSISilent:
		device["driver"], device["bus"] = "scsi-hd", busSilent+".0"
	case NVMe:
		device["driver"] = "nvme"
		device["serial"] = d.Serial[:min(len(d.Serial), visible)]
	default:
		return nil, fmt.Errorf("disk %s: bus %q is not known", d.Name, d.Bus)
	}
	return device, nil
}

// ResizeDisk makes a disk larger under the running guest, as Nova does on
// behalf of Cinder.
func (m *Machine) ResizeDisk(ctx context.Context, name string, size volume.Size) error {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	d, err := m.disk(name)
	if err != nil {
		return err
	}
	if _, err := m.monitor.execute(ctx, "block_resize", map[string]any{"node-name": d.node(), "size": size.Bytes()}); err != nil {
		return fmt.Errorf("resize disk %s to %s: %w", name, size, err)
	}
	return nil
}

// RemoveDisk unplugs a disk and destroys its content. It returns when the
// guest's kernel has let go of it.
func (m *Machine) RemoveDisk(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	d, err := m.disk(name)
	if err != nil {
		return err
	}
	deleted := m.monitor.deleted(d.id())
	if _, err := m.monitor.execute(ctx, "device_del", map[string]any{"id": d.id()}); err != nil {
		return fmt.Errorf("remove disk %s: %w", name, err)
	}
	select {
	case <-deleted:
	case <-ctx.Done():
		return fmt.Errorf("remove disk %s: the guest does not let go of it: %w", name, ctx.Err())
	}
	m.mu.Lock()
	delete(m.disks, name)
	m.mu.Unlock()
	return m.discard(ctx, d)
}

// discard removes the file behind a disk that is not plugged in.
func (m *Machine) discard(ctx context.Context, d Disk) error {
	_, err := m.monitor.execute(ctx, "blockdev-del", map[string]any{"node-name": d.node()})
	if err != nil {
		err = fmt.Errorf("remove disk %s: %w", d.Name, err)
	}
	return errors.Join(err, os.Remove(m.file(d.Name)))
}

func (m *Machine) disk(name string) (Disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.disks[name]
	if !ok {
		return Disk{}, fmt.Errorf("disk %s is not plugged in", name)
	}
	return d, nil
}

func (d Disk) id() string   { return "disk-" + d.Name }
func (d Disk) node() string { return "node-" + d.Name }

func (m *Machine) file(name string) string { return filepath.Join(m.dir, name+".img") }

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Bus is the kind of device that the guest sees of a disk.
type Bus string

// The buses.
const (
	// VirtioBlk notifies the guest of a resize and shows 20 characters of the serial.
	VirtioBlk Bus = "virtio-blk"
	// VirtioSCSI notifies the guest of a resize and shows the whole serial.
	VirtioSCSI Bus = "virtio-scsi"
	// VirtioSCSISilent does not notify the guest (param_change=off): the guest shows
	// the old size until it rescans the disk.
	VirtioSCSISilent Bus = "virtio-scsi-silent"
	// NVMe shows 20 characters of the serial. QEMU 7.2 cannot resize such a disk.
	NVMe Bus = "nvme"
)

// The ids of QEMU's two SCSI controllers.
const (
	notifyingControllerID = "scsi-telling"
	silentControllerID    = "scsi-silent"
)

// plugTimeout bounds AddDisk, ResizeDisk and RemoveDisk.
const plugTimeout = 30 * time.Second

// Disk is a disk of the machine.
type Disk struct {
	Name   string // up to 20 letters, digits and hyphens; unique in the machine
	Bus    Bus
	Serial string // Nova sets the whole volume id
	Size   volume.Size
	// Encrypted makes QEMU encrypt the disk's file with LUKS, as Nova does for encrypted
	// volumes. The guest's disk is smaller than Size by LUKSHeaderSize, and blocks that
	// were never written read as random data.
	Encrypted bool

	slot int // of the PCI bus; 0 if QEMU chooses it or the disk has none
}

// LUKSHeaderSize is the size of an encrypted disk's header: LUKS1 with eight key
// slots for a 512-bit key has 4040 sectors, also when QEMU writes it.
const LUKSHeaderSize volume.Size = 4040 * 512

// The object of QEMU with the passphrase of encrypted disks.
const (
	luksSecretID   = "luks"
	luksPassphrase = "of-tests"
)

// AddDisk plugs a blank disk in while the guest runs. It does not wait until the
// guest's kernel has found the disk.
func (m *Machine) AddDisk(ctx context.Context, d Disk) (err error) {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	device, err := d.device()
	if err != nil {
		return err
	}
	if d.slot = m.allocateSlot(d); d.slot > 0 {
		device["addr"] = fmt.Sprintf("%#x", d.slot)
	}
	defer func() {
		if err != nil {
			m.freeSlot(d)
			err = fmt.Errorf("add disk %s: %w", d.Name, err)
		}
	}()
	f, err := os.OpenFile(m.diskFile(d.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(d.Size.Bytes()), f.Close()); err != nil {
		return errors.Join(err, os.Remove(m.diskFile(d.Name)))
	}
	if d.Encrypted {
		if err := m.encrypt(ctx, d); err != nil {
			return errors.Join(err, os.Remove(m.diskFile(d.Name)))
		}
	}
	if err := m.addLayers(ctx, d); err != nil {
		return errors.Join(err, m.removeLayers(ctx, d))
	}
	if _, err := m.monitor.execute(ctx, "device_add", device); err != nil {
		return errors.Join(err, m.removeLayers(ctx, d))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disks[d.Name] = d
	return nil
}

// addLayers makes QEMU's block nodes between the disk's file and its device.
func (m *Machine) addLayers(ctx context.Context, d Disk) error {
	// QEMU ignores the guest's flushes: the data need not survive this machine.
	cache := map[string]any{"direct": false, "no-flush": true}
	_, err := m.monitor.execute(ctx, "blockdev-add", map[string]any{
		"driver": "file", "node-name": d.fileNode(), "filename": m.diskFile(d.Name), "discard": "unmap", "cache": cache,
	})
	if err != nil {
		return err
	}
	top := map[string]any{
		"driver": "raw", "node-name": d.node(), "file": d.fileNode(), "discard": "unmap", "cache": cache,
	}
	if d.Encrypted {
		top["driver"], top["key-secret"] = "luks", luksSecretID
		delete(top, "discard")
	}
	_, err = m.monitor.execute(ctx, "blockdev-add", top)
	return err
}

// encrypt writes a LUKS header to the disk's file with cryptsetup. QEMU can write
// one too, but stops the guest while it measures the speed of the key derivation.
func (m *Machine) encrypt(ctx context.Context, d Disk) error {
	path, err := findProgram("cryptsetup")
	if err != nil {
		return fmt.Errorf("%w (next step: install the Debian package cryptsetup-bin)", err)
	}
	// The smallest header with eight slots for a key of 512 bits.
	cmd := exec.CommandContext(ctx, path, "luksFormat", "--batch-mode", "--type=luks1",
		"--cipher=aes-xts-plain64", "--key-size=512", "--hash=sha256",
		"--pbkdf-force-iterations=1000", "--align-payload=1", "--key-file=-", m.diskFile(d.Name))
	cmd.Stdin = strings.NewReader(luksPassphrase)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("encrypt: %w: %s", err, out)
	}
	return nil
}

// visibleSize returns the size of the guest's disk for a disk of this size.
func (d Disk) visibleSize(size volume.Size) volume.Size {
	if d.Encrypted {
		return size - LUKSHeaderSize
	}
	return size
}

// device returns the arguments of QEMU's device_add.
func (d Disk) device() (map[string]any, error) {
	const maxSerial = 20 // NVMe's
	device := map[string]any{"id": d.id(), "drive": d.node(), "serial": d.Serial}
	switch d.Bus {
	case VirtioBlk:
		device["driver"] = "virtio-blk-pci"
	case VirtioSCSI:
		device["driver"], device["bus"] = "scsi-hd", notifyingControllerID+".0"
	case VirtioSCSISilent:
		device["driver"], device["bus"] = "scsi-hd", silentControllerID+".0"
	case NVMe:
		device["driver"] = "nvme"
		device["serial"] = d.Serial[:min(len(d.Serial), maxSerial)]
	default:
		return nil, fmt.Errorf("disk %s: bus %q is not known", d.Name, d.Bus)
	}
	return device, nil
}

// ResizeDisk makes a disk larger while the guest runs, as Nova does for Cinder.
func (m *Machine) ResizeDisk(ctx context.Context, name string, size volume.Size) error {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	d, err := m.findDisk(name)
	if err != nil {
		return err
	}
	arguments := map[string]any{"node-name": d.node(), "size": d.visibleSize(size).Bytes()}
	if _, err := m.monitor.execute(ctx, "block_resize", arguments); err != nil {
		return fmt.Errorf("resize disk %s to %s: %w", name, size, err)
	}
	return nil
}

// RemoveDisk unplugs a disk and deletes its file. It returns when the guest's
// kernel has released the device.
func (m *Machine) RemoveDisk(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	d, err := m.findDisk(name)
	if err != nil {
		return err
	}
	deleted := m.monitor.awaitDeletion(d.id())
	if _, err := m.monitor.execute(ctx, "device_del", map[string]any{"id": d.id()}); err != nil {
		return fmt.Errorf("remove disk %s: %w", name, err)
	}
	select {
	case <-deleted:
	case <-ctx.Done():
		return fmt.Errorf("remove disk %s: the guest does not release it: %w", name, ctx.Err())
	}
	m.mu.Lock()
	delete(m.disks, name)
	m.mu.Unlock()
	m.freeSlot(d)
	return m.removeLayers(ctx, d)
}

// allocateSlot returns the PCI slot for a disk that needs one: the slot that has
// been free longest, because a slow guest may eject a slot twice and would remove
// the next disk with it. It returns 0 for a SCSI disk, and when no slot is free:
// QEMU then refuses the disk.
func (m *Machine) allocateSlot(d Disk) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.Bus == VirtioSCSI || d.Bus == VirtioSCSISilent || len(m.slots) == 0 {
		return 0
	}
	slot := m.slots[0]
	m.slots = m.slots[1:]
	return slot
}

// freeSlot returns the slot of a disk to the free ones.
func (m *Machine) freeSlot(d Disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.slot > 0 {
		m.slots = append(m.slots, d.slot)
	}
}

// removeLayers removes the block nodes and the file of a disk that is not plugged
// in.
func (m *Machine) removeLayers(ctx context.Context, d Disk) error {
	var errs []error
	for _, node := range []string{d.node(), d.fileNode()} {
		if _, err := m.monitor.execute(ctx, "blockdev-del", map[string]any{"node-name": node}); err != nil {
			errs = append(errs, fmt.Errorf("remove disk %s: %w", d.Name, err))
		}
	}
	return errors.Join(append(errs, os.Remove(m.diskFile(d.Name)))...)
}

// findDisk returns the disk of this name that is plugged in.
func (m *Machine) findDisk(name string) (Disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.disks[name]
	if !ok {
		return Disk{}, fmt.Errorf("disk %s is not plugged in", name)
	}
	return d, nil
}

// The ids of the disk's device and of its two block nodes in QEMU.
func (d Disk) id() string       { return "disk-" + d.Name }
func (d Disk) node() string     { return "node-" + d.Name }
func (d Disk) fileNode() string { return "file-" + d.Name }

func (m *Machine) diskFile(name string) string { return filepath.Join(m.dir, name+".img") }

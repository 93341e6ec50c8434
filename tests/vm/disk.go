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
	notifyingControllerID = "scsi-telling"
	silentControllerID    = "scsi-silent"
)

// plugTimeout bounds an exchange with QEMU and, for removal, with the guest's
// kernel.
const plugTimeout = 30 * time.Second

// Disk is a disk of the machine.
type Disk struct {
	Name   string // for the other methods: at most 20 letters, digits and hyphens
	Bus    Bus
	Serial string // as Nova gives it: the whole volume id
	Size   volume.Size
	// Encrypted puts LUKS between the disk's file and the guest, in QEMU, as
	// Nova does for encrypted volumes: the guest's disk is smaller than Size by
	// HeaderLUKS, and what was never written reads as noise.
	Encrypted bool

	slot int // of the PCI bus; zero: QEMU has chosen, or it has none
}

// LUKSHeaderSize is the size of the header: LUKS1 with its eight key slots for a
// 512-bit key (4040 sectors), as QEMU makes it too.
const LUKSHeaderSize volume.Size = 4040 * 512

// secretLUKS is the id of the machine's passphrase for encrypted disks.
const (
	luksSecretID   = "luks"
	luksPassphrase = "of-tests"
)

// AddDisk plugs a blank disk in while the guest runs. The guest needs a moment
// to find it.
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

// addLayers makes the layers between the disk's file and its device.
func (m *Machine) addLayers(ctx context.Context, d Disk) error {
	// What the guest flushes need not survive this machine: its disk is not
	// waited for.
	cache := map[string]any{"direct": false, "no-flush": true}
	_, err := m.monitor.execute(ctx, "blockdev-add", map[string]any{
		"driver": "file", "node-name": d.fileNode(), "filename": m.diskFile(d.Name), "discard": "unmap", "cache": cache,
	})
	if err != nil {
		return err
	}
	top := map[string]any{"driver": "raw", "node-name": d.node(), "file": d.fileNode(), "discard": "unmap", "cache": cache}
	if d.Encrypted {
		top["driver"], top["key-secret"] = "luks", luksSecretID
		delete(top, "discard")
	}
	_, err = m.monitor.execute(ctx, "blockdev-add", top)
	return err
}

// encrypt writes a LUKS header to the disk's file. QEMU can do so too, but
// stands still meanwhile, guest and all, for as long as it measures how fast
// this machine derives keys.
func (m *Machine) encrypt(ctx context.Context, d Disk) error {
	path, err := lookPath("cryptsetup")
	if err != nil {
		return fmt.Errorf("%w: install Debian package cryptsetup-bin", err)
	}
	// The smallest header of eight slots for a key of 512 bits.
	cmd := exec.CommandContext(ctx, path, "luksFormat", "--batch-mode", "--type=luks1", "--cipher=aes-xts-plain64", "--key-size=512", "--hash=sha256",
		"--pbkdf-force-iterations=1000", "--align-payload=1", "--key-file=-", m.diskFile(d.Name))
	cmd.Stdin = strings.NewReader(luksPassphrase)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("encrypt: %w: %s", err, out)
	}
	return nil
}

// visible is what the guest sees of a disk of this size.
func (d Disk) visible(size volume.Size) volume.Size {
	if d.Encrypted {
		return size - LUKSHeaderSize
	}
	return size
}

// device is the argument of device_add.
func (d Disk) device() (map[string]any, error) {
	const visible = 20
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
	d, err := m.findDisk(name)
	if err != nil {
		return err
	}
	if _, err := m.monitor.execute(ctx, "block_resize", map[string]any{"node-name": d.node(), "size": d.visible(size).Bytes()}); err != nil {
		return fmt.Errorf("resize disk %s to %s: %w", name, size, err)
	}
	return nil
}

// RemoveDisk unplugs a disk and destroys its content. It returns when the
// guest's kernel has let go of it.
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
		return fmt.Errorf("remove disk %s: the guest does not let go of it: %w", name, ctx.Err())
	}
	m.mu.Lock()
	delete(m.disks, name)
	m.mu.Unlock()
	m.freeSlot(d)
	return m.removeLayers(ctx, d)
}

// allocateSlot chooses the slot for a disk that needs one: that which has been
// free longest. A guest that is slow may eject a slot twice, and the second
// time it is the next disk that goes. Zero leaves the choice to QEMU, which
// refuses when there is none.
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

func (m *Machine) freeSlot(d Disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.slot > 0 {
		m.slots = append(m.slots, d.slot)
	}
}

// removeLayers removes the file behind a disk that is not plugged in, and what of
// its layers there is.
func (m *Machine) removeLayers(ctx context.Context, d Disk) error {
	var errs []error
	for _, node := range []string{d.node(), d.fileNode()} {
		if _, err := m.monitor.execute(ctx, "blockdev-del", map[string]any{"node-name": node}); err != nil {
			errs = append(errs, fmt.Errorf("remove disk %s: %w", d.Name, err))
		}
	}
	return errors.Join(append(errs, os.Remove(m.diskFile(d.Name)))...)
}

func (m *Machine) findDisk(name string) (Disk, error) {
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

func (d Disk) fileNode() string { return "file-" + d.Name }

func (m *Machine) diskFile(name string) string { return filepath.Join(m.dir, name+".img") }

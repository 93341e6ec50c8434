package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// newMachineWithGoneDisk returns a machine with disks, with the kernel's list of their
// names, and with a node whose disk is gone.
func newMachineWithGoneDisk(t *testing.T) *fakeMachine {
	t.Helper()
	m := newMachineWithDisks(t)
	m.link("sys/class/block/sda", "sys/devices/pci/host0/block/sda")
	m.link("sys/class/block/vda", "sys/devices/pci/virtio1/block/vda")
	m.writeFile("dev/vdz", "")
	m.fake.nodes[filepath.Join(m.dev, "vdz")] = &fakeDisk{number: DeviceNumber{252, 99}}
	return m
}

func TestMissingDeviceIsGone(t *testing.T) {
	m := newMachineWithGoneDisk(t)
	_, byNumber := m.ByNumber(252, 99)
	_, byStaleNode := m.ByPath(filepath.Join(m.dev, "vdz"))
	_, byMissingNode := m.ByPath(filepath.Join(m.dev, "vdc"))
	_, byMissingPartition := m.ByPath(filepath.Join(m.dev, "nvme3n1p1"))
	for what, err := range map[string]error{
		"number": byNumber, "stale node": byStaleNode, "missing node": byMissingNode, "missing partition": byMissingPartition,
	} {
		if !errors.Is(err, volume.ErrGone) || !errors.Is(err, os.ErrNotExist) || volume.KindOf(err) != volume.KindInternal {
			t.Errorf("%s: %v, want an error that wraps volume.ErrGone", what, err)
		}
	}
}

func TestUnreadableDeviceIsNotGone(t *testing.T) {
	m := newMachineWithGoneDisk(t)
	if err := os.Symlink(filepath.Join(m.dev, "nowhere"), filepath.Join(m.dev, "sdx")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.dev, "sda")); err != nil {
		t.Fatal(err)
	}
	delete(m.fake.nodes, filepath.Join(m.dev, "sda"))
	for what, path := range map[string]string{
		"the node of a device that the kernel has": filepath.Join(m.dev, "sda"),
		"a link whose target is missing":           filepath.Join(m.dev, "sdx"),
		"an alias that udev may have made":         filepath.Join(m.dev, "data"),
		"the root device's alias":                  filepath.Join(m.dev, "root"),
		"a mapping's name":                         filepath.Join(m.dev, "mapper/vdc"),
		"a missing file elsewhere":                 filepath.Join(m.root, "vdc"),
		"a regular file":                           filepath.Join(m.root, "sys/devices/pci/host0/block/sda/dev"),
	} {
		if _, err := m.ByPath(path); err == nil || errors.Is(err, volume.ErrGone) {
			t.Errorf("%s: %v, want an error that does not wrap volume.ErrGone", what, err)
		}
	}
}

// Without sysfs no device has an entry, although devices exist.
func TestNothingIsGoneWithoutSysfs(t *testing.T) {
	for name, empty := range map[string]bool{"missing": false, "empty": true} {
		m := newMachineWithGoneDisk(t)
		for _, dir := range []string{"dev/block", "class/block"} {
			dir = filepath.Join(m.sysfs, dir)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if !empty {
				continue
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_, byNumber := m.ByNumber(8, 0)
		_, byNode := m.ByPath(filepath.Join(m.dev, "vdz"))
		_, byMissingNode := m.ByPath(filepath.Join(m.dev, "vdc"))
		for _, err := range []error{byNumber, byNode, byMissingNode} {
			if err == nil || errors.Is(err, volume.ErrGone) {
				t.Errorf("sysfs %s: %v, want an error that does not wrap volume.ErrGone", name, err)
			}
		}
		if !strings.Contains(byNumber.Error(), "mount the host's /sys") {
			t.Errorf("sysfs %s: the error has no remedy: %v", name, byNumber)
		}
	}
}

// The disk below a mapping was removed, so the link to the disk has no target.
func TestStackFailsWhenTheDeviceBelowIsGone(t *testing.T) {
	m := newMachineWithGoneDisk(t)
	m.addDevice("virtual/block/dm-9", "253:9", map[string]string{"dm/uuid": "CRYPT-LUKS2-x\n"})
	m.link("sys/devices/virtual/block/dm-9/slaves/vdz", "sys/devices/pci/virtio9/block/vdz")
	if _, err := m.Stack(m.mustFind("253:9")); !errors.Is(err, volume.ErrGone) {
		t.Errorf("got %v", err)
	}
}

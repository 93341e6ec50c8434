package blockdev

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// newMachineWithGoneDisk has disks, the kernel's list of them by name, and a node whose disk
// has gone.
func newMachineWithGoneDisk(t *testing.T) *fakeMachine {
	t.Helper()
	r := newFakeMachine(t)
	addEveryKind(r)
	r.link("sys/class/block/sda", "sys/devices/pci/host0/block/sda")
	r.link("sys/class/block/vda", "sys/devices/pci/virtio1/block/vda")
	r.writeFile("dev/vdz", "")
	r.fake.nodes[filepath.Join(r.dev, "vdz")] = &fakeDisk{major: 252, minor: 99}
	return r
}

func TestGoneDeviceIsProvedBySysfs(t *testing.T) {
	r := newMachineWithGoneDisk(t)
	_, byNumber := r.ByNumber(252, 99)
	_, byStaleNode := r.ByPath(filepath.Join(r.dev, "vdz"))
	_, byMissingNode := r.ByPath(filepath.Join(r.dev, "vdc"))
	_, byMissingPartition := r.ByPath(filepath.Join(r.dev, "nvme3n1p1"))
	for what, err := range map[string]error{
		"number": byNumber, "stale node": byStaleNode, "missing node": byMissingNode, "missing partition": byMissingPartition,
	} {
		if !errors.Is(err, volume.ErrGone) || !errors.Is(err, os.ErrNotExist) || volume.KindOf(err) != volume.KindInternal {
			t.Errorf("%s: %v does not say that the device is gone", what, err)
		}
	}
}

func TestUnreadableDeviceIsNotGone(t *testing.T) {
	r := newMachineWithGoneDisk(t)
	if err := os.Symlink(filepath.Join(r.dev, "nowhere"), filepath.Join(r.dev, "sdx")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(r.dev, "sda")); err != nil {
		t.Fatal(err)
	}
	delete(r.fake.nodes, filepath.Join(r.dev, "sda"))
	for what, path := range map[string]string{
		"the node of a device that the kernel has": filepath.Join(r.dev, "sda"),
		"a link that leads nowhere":                filepath.Join(r.dev, "sdx"),
		"an alias that udev may have made":         filepath.Join(r.dev, "data"),
		"the root device's alias":                  filepath.Join(r.dev, "root"),
		"a mapping's name":                         filepath.Join(r.dev, "mapper/vdc"),
		"a missing file elsewhere":                 filepath.Join(r.root, "vdc"),
		"a regular file":                           filepath.Join(r.root, "sys/devices/pci/host0/block/sda/dev"),
	} {
		if _, err := r.ByPath(path); err == nil || errors.Is(err, volume.ErrGone) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Without sysfs every device would pass for gone.
func TestNothingIsGoneWithoutSysfs(t *testing.T) {
	for name, empty := range map[string]bool{"missing": false, "empty": true} {
		r := newMachineWithGoneDisk(t)
		for _, dir := range []string{"dev/block", "class/block"} {
			dir = filepath.Join(r.sysfs, dir)
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
		_, byNumber := r.ByNumber(8, 0)
		_, byNode := r.ByPath(filepath.Join(r.dev, "vdz"))
		_, byMissingNode := r.ByPath(filepath.Join(r.dev, "vdc"))
		for _, err := range []error{byNumber, byNode, byMissingNode} {
			if err == nil || errors.Is(err, volume.ErrGone) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !strings.Contains(byNumber.Error(), "mount the host's /sys") {
			t.Errorf("%s: no remedy: %v", name, byNumber)
		}
	}
}

// What a mapping rested on was pulled out: the link to it leads nowhere.
func TestStackOnADeviceThatIsGone(t *testing.T) {
	r := newMachineWithGoneDisk(t)
	r.addDevice("virtual/block/dm-9", "253:9", volume.GiB, map[string]string{"dm/uuid": "CRYPT-LUKS2-x\n"})
	r.link("sys/devices/virtual/block/dm-9/slaves/vdz", "sys/devices/pci/virtio9/block/vdz")
	if _, err := r.Stack(r.mustFind("253:9")); !errors.Is(err, volume.ErrGone) {
		t.Errorf("got %v", err)
	}
}

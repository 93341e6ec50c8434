package blockdev

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// addEveryKind puts one disk of each kind into the rig.
func addEveryKind(r *fakeMachine) {
	r.writeFile("sys/bus/scsi/x", "")
	r.writeFile("sys/bus/virtio/x", "")
	r.writeFile("sys/class/nvme/x", "")
	r.writeFile("sys/class/nvme-subsystem/x", "")
	r.addDevice("pci/host0/block/sda", "8:0", volume.GiB, nil)
	r.link("sys/devices/pci/host0/block/sda/device", "sys/devices/pci/host0")
	r.link("sys/devices/pci/host0/subsystem", "sys/bus/scsi")
	r.addDevice("pci/host0/block/sda/sda1", "8:1", volume.GiB, map[string]string{"partition": "1\n"})
	r.addDevice("pci/virtio1/block/vda", "252:0", volume.GiB, map[string]string{"serial": "d25f9882-eb5a-41ea-8"})
	r.link("sys/devices/pci/virtio1/block/vda/device", "sys/devices/pci/virtio1")
	r.link("sys/devices/pci/virtio1/subsystem", "sys/bus/virtio")
	r.addDevice("pci/nvme0/nvme0n1", "259:0", volume.GiB, nil)
	r.link("sys/devices/pci/nvme0/nvme0n1/device", "sys/devices/pci/nvme0")
	r.link("sys/devices/pci/nvme0/subsystem", "sys/class/nvme")
	r.writeFile("sys/devices/pci/nvme0/serial", "d25f9882-eb5a-41ea-8\n")
	r.addDevice("virtual/nvme-subsystem/nvme-subsys1/nvme1n1", "259:1", volume.GiB, nil)
	r.link("sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1/device", "sys/devices/virtual/nvme-subsystem/nvme-subsys1")
	r.link("sys/devices/virtual/nvme-subsystem/nvme-subsys1/subsystem", "sys/class/nvme-subsystem")
	r.addDevice("virtual/block/loop0", "7:0", volume.GiB, map[string]string{"loop/backing_file": "/pool/volumes/vol-1/data\n"})
	r.addDevice("rbd/0/block/rbd0", "251:0", volume.GiB, nil)
	r.writeFile("sys/bus/rbd/devices/0/pool", "kubernetes\n")
	r.writeFile("sys/bus/rbd/devices/0/name", "volume-1\n")
	r.addDevice("virtual/block/dm-0", "253:0", volume.GiB, map[string]string{"dm/uuid": "CRYPT-LUKS2-6d5c-luks\n", "dm/name": "luks\n"})
	r.link("sys/devices/virtual/block/dm-0/slaves/sda1", "sys/devices/pci/host0/block/sda/sda1")
	r.link("sys/devices/pci/host0/block/sda/sda1/holders/dm-0", "sys/devices/virtual/block/dm-0")
	r.addDevice("virtual/block/dm-1", "253:1", volume.GiB, map[string]string{"dm/uuid": "mpath-3600\n"})
	r.link("sys/devices/virtual/block/dm-1/slaves/sda", "sys/devices/pci/host0/block/sda")
	r.link("sys/devices/virtual/block/dm-1/slaves/vda", "sys/devices/pci/virtio1/block/vda")
	r.addDevice("virtual/block/dm-2", "253:2", volume.GiB, map[string]string{"dm/uuid": "LVM-x\n"})
	r.addDevice("virtual/block/md0", "9:0", volume.GiB, map[string]string{"md/level": "raid1\n"})
	r.addDevice("virtual/block/zram0", "250:0", volume.GiB, nil)
}

func TestKinds(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	for number, want := range map[string]struct {
		name string
		kind Kind
	}{
		"8:0": {"sda", KindSCSI}, "8:1": {"sda1", KindPartition}, "252:0": {"vda", KindVirtioBlk}, "259:0": {"nvme0n1", KindNVMe},
		"259:1": {"nvme1n1", KindNVMe}, "7:0": {"loop0", KindLoop}, "251:0": {"rbd0", KindRBD}, "253:0": {"dm-0", KindCrypt},
		"253:1": {"dm-1", KindMapper}, "9:0": {"md0", KindMD}, "250:0": {"zram0", KindOther},
	} {
		d := r.mustFind(number)
		if d.Name != want.name || d.Kind != want.kind || d.Number().String() != number || d.Path != filepath.Join(r.dev, want.name) {
			t.Errorf("%s: got %+v, want %s of kind %s", number, d, want.name, want.kind)
		}
	}
}

func TestNodeNameFromUevent(t *testing.T) {
	r := newFakeMachine(t)
	r.addDevice("pci/block/cciss!c0d0", "104:0", volume.GiB, nil)
	r.writeFile("sys/devices/pci/block/cciss!c0d0/uevent", "DEVNAME=cciss/c0d0\n")
	if d := r.mustFind("104:0"); d.Path != filepath.Join(r.dev, "cciss/c0d0") {
		t.Errorf("path %s", d.Path)
	}
	r.writeFile("sys/devices/pci/block/cciss!c0d0/uevent", "DEVNAME=../../etc/shadow\n")
	if d := r.mustFind("104:0"); d.Path != filepath.Join(r.dev, "cciss/c0d0") {
		t.Errorf("path %s leads out of /dev", d.Path)
	}
}

func TestByPath(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	// A published block volume: the node lies elsewhere, the device is sda.
	r.writeFile("publish/dev", "")
	r.fake.nodes[filepath.Join(r.root, "publish/dev")] = &fakeDisk{major: 8, minor: 0}
	d, err := r.ByPath(filepath.Join(r.root, "publish/dev"))
	if err != nil || d.Name != "sda" || d.Path != filepath.Join(r.dev, "sda") {
		t.Errorf("got %+v, %v", d, err)
	}
	// Without the canonical node, the one that was given serves.
	delete(r.fake.nodes, filepath.Join(r.dev, "sda"))
	if d, err = r.ByPath(filepath.Join(r.root, "publish/dev")); err != nil || d.Path != filepath.Join(r.root, "publish/dev") {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := r.ByPath(filepath.Join(r.root, "sys/devices/pci/host0/block/sda/dev")); err == nil {
		t.Error("a regular file passes for a device")
	}
	// A node of a device that has gone.
	r.fake.nodes[filepath.Join(r.root, "publish/dev")] = &fakeDisk{major: 8, minor: 99}
	_, err = r.ByPath(filepath.Join(r.root, "publish/dev"))
	if err == nil || !strings.Contains(err.Error(), "stale") || volume.KindOf(err) != volume.KindInternal {
		t.Errorf("a stale node: %v", err)
	}
}

func TestOpenVerifiesTheNumber(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("8:0")
	r.fake.nodes[d.Path].minor = 16 // the name was given anew
	if _, err := r.Size(d); err == nil || !strings.Contains(err.Error(), "8:16") {
		t.Errorf("the size of another device was read: %v", err)
	}
	if err := os.Remove(d.Path); err != nil {
		t.Fatal(err)
	}
	_, err := r.Size(d)
	if err == nil || !strings.Contains(err.Error(), "node is missing") || volume.KindOf(err) == volume.KindNotFound {
		t.Errorf("missing node: %v (kind %s)", err, volume.KindOf(err))
	}
}

func TestReadOnly(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("8:0")
	for _, want := range []bool{false, true} {
		r.fake.nodes[d.Path].readOnly = want
		if got, err := r.IsReadOnly(d); err != nil || got != want {
			t.Errorf("read-only: %t, %v; want %t", got, err, want)
		}
	}
}

func TestStack(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	layers, err := r.Stack(r.mustFind("253:0"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(listNames(layers)); got != "(dm-0, sda1, sda)" {
		t.Errorf("layers %s", got)
	}
	if layers, err := r.Stack(r.mustFind("252:0")); err != nil || len(layers) != 1 {
		t.Errorf("a disk is not its own stack: %v, %v", layers, err)
	}
	for _, number := range []string{"253:1", "253:2", "9:0"} {
		_, err := r.Stack(r.mustFind(number))
		if volume.KindOf(err) != volume.KindPrecondition {
			t.Errorf("%s: %v", number, err)
		}
	}
	if _, err := r.Stack(r.mustFind("253:1")); !strings.Contains(err.Error(), "sda, vda") {
		t.Errorf("the devices are not named: %v", err)
	}
}

func TestStackThatDoesNotEnd(t *testing.T) {
	r := newFakeMachine(t)
	r.addDevice("virtual/block/dm-7", "253:7", volume.GiB, map[string]string{"dm/uuid": "x"})
	r.link("sys/devices/virtual/block/dm-7/slaves/dm-7", "sys/devices/virtual/block/dm-7")
	if _, err := r.Stack(r.mustFind("253:7")); volume.KindOf(err) != volume.KindInternal || err == nil {
		t.Errorf("a device below itself: %v", err)
	}
}

func TestHolders(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	for _, number := range []string{"8:0", "8:1"} { // through the partition, and directly
		holders, err := r.Holders(r.mustFind(number))
		if err != nil || len(holders) != 1 || holders[0].Name != "dm-0" {
			t.Errorf("holders of %s: %v, %v", number, holders, err)
		}
	}
	if holders, err := r.Holders(r.mustFind("252:0")); err != nil || len(holders) != 0 {
		t.Errorf("holders of vda: %v, %v", holders, err)
	}
	parts, err := r.Partitions(r.mustFind("8:0"))
	if err != nil || !slices.Equal(parts, []Device{r.mustFind("8:1")}) {
		t.Errorf("partitions %v, %v", parts, err)
	}
}

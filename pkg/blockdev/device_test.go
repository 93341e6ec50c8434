package blockdev

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestByNumberReadsTheKind(t *testing.T) {
	m := newMachineWithDisks(t)
	for number, want := range map[string]struct {
		name string
		kind Kind
	}{
		"8:0":   {"sda", KindSCSI},
		"8:1":   {"sda1", KindPartition},
		"252:0": {"vda", KindVirtioBlk},
		"259:0": {"nvme0n1", KindNVMe},
		"259:1": {"nvme1n1", KindNVMe},
		"7:0":   {"loop0", KindLoop},
		"251:0": {"rbd0", KindRBD},
		"253:0": {"dm-0", KindCrypt},
		"253:1": {"dm-1", KindMapper},
		"9:0":   {"md0", KindMD},
		"250:0": {"zram0", KindOther},
	} {
		d := m.mustFind(number)
		n := m.parseNumber(number)
		wantDevice := Device{
			Major: n.Major, Minor: n.Minor, Name: want.name, Path: filepath.Join(m.dev, want.name), Kind: want.kind,
		}
		if d != wantDevice || d.Number().String() != number {
			t.Errorf("%s: got %+v, want %+v", number, d, wantDevice)
		}
	}
}

func TestPathFollowsTheNameInUevent(t *testing.T) {
	m := newFakeMachine(t)
	m.addDevice("pci/block/cciss!c0d0", "104:0", nil)
	m.writeFile("sys/devices/pci/block/cciss!c0d0/uevent", "DEVNAME=cciss/c0d0\n")
	if d := m.mustFind("104:0"); d.Path != filepath.Join(m.dev, "cciss/c0d0") {
		t.Errorf("path %s", d.Path)
	}
	m.writeFile("sys/devices/pci/block/cciss!c0d0/uevent", "DEVNAME=../../etc/shadow\n")
	if d := m.mustFind("104:0"); d.Path != filepath.Join(m.dev, "cciss/c0d0") {
		t.Errorf("path %s, want one below /dev", d.Path)
	}
}

func TestByPathFindsTheDeviceOfANode(t *testing.T) {
	m := newMachineWithDisks(t)
	// A raw block volume is published as a node outside of /dev; its device is sda.
	m.writeFile("publish/dev", "")
	published := filepath.Join(m.root, "publish/dev")
	m.fake.nodes[published] = &fakeDisk{number: DeviceNumber{8, 0}}
	d, err := m.ByPath(published)
	if err != nil || d.Name != "sda" || d.Path != filepath.Join(m.dev, "sda") {
		t.Errorf("got %+v, %v", d, err)
	}
	// Without a node in /dev, Path is the given one.
	delete(m.fake.nodes, filepath.Join(m.dev, "sda"))
	if d, err = m.ByPath(published); err != nil || d.Path != published {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := m.ByPath(filepath.Join(m.root, "sys/devices/pci/host0/block/sda/dev")); err == nil {
		t.Error("ByPath of a regular file succeeded")
	}
	// The node of a device that is gone.
	m.fake.nodes[published] = &fakeDisk{number: DeviceNumber{8, 99}}
	_, err = m.ByPath(published)
	if err == nil || !strings.Contains(err.Error(), "cannot identify the device behind") ||
		volume.KindOf(err) != volume.KindInternal {
		t.Errorf("a stale node: %v", err)
	}
}

func TestOpenRefusesANodeOfAnotherDevice(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("8:0")
	m.diskOfNode(d).number.Minor = 16 // the kernel gave the name to another disk
	if _, err := m.Size(d); err == nil || !strings.Contains(err.Error(), "8:16") {
		t.Errorf("Size of a node of another device: error %v, want one with 8:16", err)
	}
	if err := os.Remove(d.Path); err != nil {
		t.Fatal(err)
	}
	_, err := m.Size(d)
	if err == nil || !strings.Contains(err.Error(), "is missing") || volume.KindOf(err) == volume.KindNotFound {
		t.Errorf("missing node: %v (kind %s)", err, volume.KindOf(err))
	}
}

func TestIsReadOnly(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("8:0")
	for _, want := range []bool{false, true} {
		m.diskOfNode(d).readOnly = want
		if got, err := m.IsReadOnly(d); err != nil || got != want {
			t.Errorf("read-only: %t, %v; want %t", got, err, want)
		}
	}
}

func TestStackReturnsTheLayersDownToTheDisk(t *testing.T) {
	m := newMachineWithDisks(t)
	layers, err := m.Stack(m.mustFind("253:0"))
	if err != nil {
		t.Fatal(err)
	}
	if got := listNames(layers); got != "dm-0, sda1, sda" {
		t.Errorf("layers %s, want dm-0, sda1, sda", got)
	}
	if layers, err := m.Stack(m.mustFind("252:0")); err != nil || len(layers) != 1 {
		t.Errorf("Stack of a disk: %v, %v; want the disk alone", layers, err)
	}
	for _, number := range []string{"253:1", "253:2", "9:0"} {
		_, err := m.Stack(m.mustFind(number))
		if volume.KindOf(err) != volume.KindPrecondition {
			t.Errorf("Stack of %s: %v, want kind Precondition", number, err)
		}
	}
	if _, err := m.Stack(m.mustFind("253:1")); !strings.Contains(err.Error(), "sda, vda") {
		t.Errorf("the error does not name the devices: %v", err)
	}
}

func TestStackFailsForADeviceThatRestsOnItself(t *testing.T) {
	m := newFakeMachine(t)
	m.addDevice("virtual/block/dm-7", "253:7", map[string]string{"dm/uuid": "x"})
	m.link("sys/devices/virtual/block/dm-7/slaves/dm-7", "sys/devices/virtual/block/dm-7")
	if _, err := m.Stack(m.mustFind("253:7")); volume.KindOf(err) != volume.KindInternal || err == nil {
		t.Errorf("a device below itself: %v", err)
	}
}

func TestHoldersIncludeThoseOfPartitions(t *testing.T) {
	m := newMachineWithDisks(t)
	for _, number := range []string{"8:0", "8:1"} { // of the disk by way of its partition, and of the partition
		holders, err := m.Holders(m.mustFind(number))
		if err != nil || len(holders) != 1 || holders[0].Name != "dm-0" {
			t.Errorf("holders of %s: %v, %v", number, holders, err)
		}
	}
	if holders, err := m.Holders(m.mustFind("252:0")); err != nil || len(holders) != 0 {
		t.Errorf("holders of vda: %v, %v", holders, err)
	}
	parts, err := m.Partitions(m.mustFind("8:0"))
	if err != nil || !slices.Equal(parts, []Device{m.mustFind("8:1")}) {
		t.Errorf("partitions %v, %v", parts, err)
	}
}

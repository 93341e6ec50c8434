package instance

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
)

// addSlots makes PCI slots for hot-plugging as Linux 6.1 shows them, of which so
// many have a device.
func (m *machine) addSlots(format string, all, taken int) {
	for i := range all {
		address := fmt.Sprintf(format, i)
		m.write(fmt.Sprintf("sys/bus/pci/slots/%d/address", i), []byte(address+"\n"))
		if i < taken {
			m.write("sys/bus/pci/devices/"+address+".0/class", []byte("0x010000\n"))
			m.write("sys/bus/pci/devices/"+address+".1/class", []byte("0x010000\n"))
		}
	}
	m.write("sys/bus/pci/devices/0000:00:1f.0/class", []byte("0x060100\n")) // in no slot
}

func TestAttachLimitCountsSlotsOrTargets(t *testing.T) {
	volumes := func(m *machine, kind blockdev.Kind, n int) {
		for i := range n {
			m.plug(fmt.Sprintf("vol%d", i), kind, fmt.Sprintf("%08x-eb5a-41ea-8", i), nil)
		}
	}
	for name, c := range map[string]struct {
		prepare func(m *machine)
		want    int64
	}{
		"nothing known": {func(*machine) {}, 256},
		"virtio-blk on pc: an image's disk and a network card": {func(m *machine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", nil)
			m.plug("sr0", blockdev.KindSCSI, "QM00005", nil)
			m.addSlots("0000:00:%02x", 29, 2)
		}, 27},
		"and three volumes": {func(m *machine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", nil)
			volumes(m, blockdev.KindVirtioBlk, 3)
			m.addSlots("0000:00:%02x", 29, 5)
		}, 27},
		"q35": {func(m *machine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", nil)
			m.addSlots("0000:%02x:00", 5, 4)
		}, 1},
		"q35 that is full: zero would be no limit": {func(m *machine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", nil)
			m.addSlots("0000:%02x:00", 5, 5)
		}, 1},
		"virtio-blk without known slots": {func(m *machine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", nil)
			volumes(m, blockdev.KindVirtioBlk, 3)
		}, 255},
		"virtio-scsi": {func(m *machine) {
			m.plug("sda", blockdev.KindSCSI, "", nil)
			m.plug("sr0", blockdev.KindSCSI, "", nil)
			m.plug("loop0", blockdev.KindLoop, "", nil)
			volumes(m, blockdev.KindSCSI, 3)
			m.addSlots("0000:%02x:00", 5, 5)
		}, 254},
		"virtio-scsi with a config drive on virtio-blk": {func(m *machine) {
			m.plug("vda", blockdev.KindVirtioBlk, "", nil)
			volumes(m, blockdev.KindSCSI, 3)
			m.addSlots("0000:%02x:00", 5, 2)
		}, 255},
		"a disk that does not answer": {func(m *machine) {
			m.plug("sda", blockdev.KindSCSI, "", nil)
			delete(m.serials, "sda")
		}, 255},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			c.prepare(m)
			got, err := AttachLimit(t.Context(), m.limitOptions())
			if err != nil || got.Volumes != c.want || got.Reason == "" {
				t.Errorf("%+v, %v; want %d", got, err, c.want)
			}
		})
	}
}

// A server that boots from a volume has one that is not the orchestrator's.
func TestAttachLimitExcludesTheVolumeOfTheRootFilesystem(t *testing.T) {
	m := newMachine(t)
	root := m.plug("vda", blockdev.KindVirtioBlk, serverID[:20], nil)
	m.addSlots("0000:00:%02x", 29, 2)
	var st unix.Stat_t
	if err := unix.Stat(m.root, &st); err != nil {
		t.Fatal(err)
	}
	o := m.limitOptions()
	o.OwnPaths = []string{"/nowhere", m.root}
	if got, err := AttachLimit(t.Context(), o); err != nil || got.Volumes != 28 { // its place is not known
		t.Errorf("limit %+v, error %v; want 28", got, err)
	}
	m.disksByNumber[fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))] = root
	if got, err := AttachLimit(t.Context(), o); err != nil || got.Volumes != 27 {
		t.Errorf("limit %+v, error %v; want 27", got, err)
	}
}

// The bus of the node's own disk is that of its volumes, while there are none.
func TestAttachLimitUsesTheBusOfTheOwnDisk(t *testing.T) {
	for kind, want := range map[blockdev.Kind]int64{blockdev.KindSCSI: 254, blockdev.KindVirtioBlk: 27} {
		m := newMachine(t)
		m.plug("config", blockdev.KindVirtioBlk, "", nil)
		own := m.plug("root", kind, "", nil)
		m.addSlots("0000:00:%02x", 29, 2)
		var st unix.Stat_t
		if err := unix.Stat(m.root, &st); err != nil {
			t.Fatal(err)
		}
		m.disksByNumber[fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))] = own
		o := m.limitOptions()
		o.OwnPaths = []string{m.root}
		got, err := AttachLimit(t.Context(), o)
		if err != nil || got.Volumes != want {
			t.Errorf("%s: %+v, %v; want %d", kind, got, err, want)
		}
	}
}

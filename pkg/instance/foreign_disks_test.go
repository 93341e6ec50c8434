package instance

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/volume"
)

// Paths at which kubelet mounts volumes.
const (
	stagingPath = "/var/lib/kubelet/plugins/kubernetes.io/csi/cinder.csi.openstack.org/0123/globalmount"
	publishPath = "/var/lib/kubelet/pods/0123/volumes/kubernetes.io~csi/pvc-1/mount"
)

// writeMountinfo writes the mount table of this process.
func (m *machine) writeMountinfo(lines ...string) {
	for i, line := range lines {
		lines[i] = fmt.Sprintf("%d 1 %s", 100+i, line)
	}
	m.write("proc/self/mountinfo", []byte(strings.Join(lines, "\n")+"\n"))
}

// makeBlockNode makes a device node with this number.
func (m *machine) makeBlockNode(path string, number uint32) string {
	m.t.Helper()
	return m.makeBlockNodeOf(path, blockdev.Device{Major: 252, Minor: number})
}

func (m *machine) makeBlockNodeOf(path string, d blockdev.Device) string {
	m.t.Helper()
	path = m.write(path, nil)
	if err := os.Remove(path); err != nil {
		m.t.Fatal(err)
	}
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
		m.t.Skipf("needs device nodes: %v", err)
	}
	return path
}

// A disk with a volume's serial does not count as a volume when something foreign uses it. The
// machine has 29 slots for hot-plugging, with its root disk, a network card and that
// disk (252:1) in them: 27 volumes can be attached, that one included, or 26 beside it.
func TestAttachLimitExcludesForeignDisks(t *testing.T) {
	const ext4 = " - ext4 /dev/vdb rw"
	part := blockdev.Device{Major: 252, Minor: 17, Name: "vdb1", Path: "/dev/vdb1", Kind: blockdev.KindPartition}
	crypt := blockdev.Device{Major: 253, Minor: 0, Name: "dm-0", Path: "/dev/dm-0", Kind: blockdev.KindCrypt}
	lvm := blockdev.Device{Major: 253, Minor: 1, Name: "dm-1", Path: "/dev/dm-1", Kind: blockdev.KindMapper}
	for name, c := range map[string]struct {
		prepare func(m *machine, o *LimitOptions)
		want    int64
	}{
		"unused: it may be about to be staged": {func(*machine, *LimitOptions) {}, 27},
		"mounted": {
			func(m *machine, _ *LimitOptions) { m.writeMountinfo("252:1 / /srv rw" + ext4) }, 26,
		},
		"mounted outside of this container": {func(m *machine, _ *LimitOptions) { m.mounted["vdb"] = "xfs" }, 26},
		"a partition mounted": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"] = []blockdev.Device{part}
			m.mounted["vdb1"] = "ext4"
		}, 26},
		"a logical volume on a mapping on a partition mounted": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"] = []blockdev.Device{part, crypt}
			m.above["vdb1"], m.above["dm-0"] = []blockdev.Device{crypt}, []blockdev.Device{lvm}
			m.writeMountinfo("253:1 / /srv rw - xfs /dev/mapper/vg-lv rw")
		}, 26},
		"a mapping that is not mounted": {
			func(m *machine, _ *LimitOptions) { m.above["vdb"] = []blockdev.Device{crypt} }, 27,
		},
		"swapped to": {func(m *machine, _ *LimitOptions) {
			m.write("proc/swaps", []byte("Filename\t\t\t\tType\t\tSize\n"+m.disks[1].Path+"   partition\t1024\t0\t-2\n"))
		}, 26},
		"btrfs": {func(m *machine, _ *LimitOptions) {
			m.writeMountinfo("0:55 / /srv rw - btrfs /dev/vdb rw")
			m.mounted["vdb"] = "btrfs"
		}, 26},
		"staged": {func(m *machine, _ *LimitOptions) {
			m.mounted["vdb"] = "ext4"
			m.writeMountinfo("252:1 / " + stagingPath + " rw" + ext4)
		}, 27},
		"published": {func(m *machine, _ *LimitOptions) {
			m.mounted["vdb"] = "ext4"
			m.writeMountinfo(
				"252:1 / /srv rw"+ext4, "252:1 / /data/kubelet/pods/0123/volumes/kubernetes.io~csi/pvc-1/mount rw"+ext4,
			)
		}, 27},
		"staged with a mapping": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"], m.mounted["dm-0"] = []blockdev.Device{crypt}, "xfs"
			m.writeMountinfo("253:0 / " + stagingPath + " rw - xfs /dev/mapper/x rw")
		}, 27},
		"published raw, with a filesystem of the pod's": {func(m *machine, _ *LimitOptions) {
			m.mounted["vdb"] = "ext4"
			node := m.makeBlockNode("kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/0123", 1)
			m.writeMountinfo("0:6 /vdb " + node + " rw - devtmpfs udev rw")
		}, 27},
		"another driver's logical volume published": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"] = []blockdev.Device{lvm}
			m.writeMountinfo("253:1 / " + publishPath + " rw - xfs /dev/topolvm/pvc-1 rw")
		}, 26},
		"another driver's logical volume on a mapping published": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"], m.above["dm-0"] = []blockdev.Device{crypt}, []blockdev.Device{lvm}
			m.writeMountinfo("253:1 / " + publishPath + " rw - xfs /dev/topolvm/pvc-1 rw")
		}, 26},
		"another driver's logical volume published raw": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"], m.mounted["dm-1"] = []blockdev.Device{lvm}, "ext4"
			node := m.makeBlockNodeOf("kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/0123", lvm)
			m.writeMountinfo("0:6 /dm-1 " + node + " rw - devtmpfs udev rw")
		}, 26},
		"another driver's partition published": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"] = []blockdev.Device{part}
			m.writeMountinfo("252:17 / " + publishPath + " rw" + ext4)
		}, 26},
		"another driver's mapping on a partition published": {func(m *machine, _ *LimitOptions) {
			m.above["vdb"], m.above["vdb1"] = []blockdev.Device{part}, []blockdev.Device{crypt}
			m.writeMountinfo("253:0 / " + publishPath + " rw - xfs /dev/mapper/x rw")
		}, 26},
		"another driver's directory of the disk published": {func(m *machine, _ *LimitOptions) {
			m.writeMountinfo("252:1 /pvc-1 " + publishPath + " rw" + ext4)
		}, 26},
		"another volume published raw": {func(m *machine, _ *LimitOptions) {
			m.mounted["vdb"] = "ext4"
			node := m.makeBlockNode("kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/0123", 7)
			m.writeMountinfo("0:6 /vdz " + node + " rw - devtmpfs udev rw")
		}, 26},
		"staged, elsewhere than kubelet does": {func(m *machine, o *LimitOptions) {
			m.mounted["vdb"] = "ext4"
			o.Staged = func() []string { return []string{"no-uuid", otherID} }
		}, 27},
		"while other volumes are staged": {func(m *machine, o *LimitOptions) {
			m.mounted["vdb"] = "ext4"
			o.Staged = func() []string { return []string{serverID} }
		}, 26},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.plug("vda", blockdev.KindVirtioBlk, "", nil)
			m.plug("vdb", blockdev.KindVirtioBlk, otherID[:20], nil)
			m.addSlots("0000:00:%02x", 29, 3)
			o := m.limitOptions()
			c.prepare(m, &o)
			got, err := AttachLimit(t.Context(), o)
			if err != nil || got.Volumes != c.want {
				t.Errorf("%+v, %v; want %d", got, err, c.want)
			}
			if isNamed := strings.Contains(got.Reason, "vdb"); isNamed != (c.want == 26) {
				t.Errorf("the reason: %s", got.Reason)
			}
		})
	}
}

// A foreign disk takes a target of a virtio-scsi controller, and its bus is that of the
// volumes too.
func TestAttachLimitExcludesForeignDisksOnSCSI(t *testing.T) {
	m := newMachine(t)
	m.plug("vda", blockdev.KindVirtioBlk, "", nil) // a config drive
	m.plug("sda", blockdev.KindSCSI, otherID, nil)
	m.mounted["sda"] = "ext4"
	m.addSlots("0000:00:%02x", 29, 3)
	if got, err := AttachLimit(t.Context(), m.limitOptions()); err != nil || got.Volumes != 254 {
		t.Errorf("%+v, %v; want 254", got, err)
	}
}

// Reserved volumes are subtracted from the limit, and at least one volume stays.
func TestAttachLimitSubtractsReservedVolumes(t *testing.T) {
	for reserved, want := range map[int64]int64{0: 27, 2: 25, 26: 1, 27: 1, 1000: 1} {
		m := newMachine(t)
		m.plug("vda", blockdev.KindVirtioBlk, "", nil)
		m.addSlots("0000:00:%02x", 29, 2)
		o := m.limitOptions()
		o.Reserved = reserved
		got, err := AttachLimit(t.Context(), o)
		if err != nil || got.Volumes != want || strings.Contains(got.Reason, "reserved") != (reserved > 0) {
			t.Errorf("reserved %d: %+v, %v; want %d", reserved, got, err, want)
		}
	}
}

// A limit that was not counted is no limit.
func TestAttachLimitFailsWithoutMountTable(t *testing.T) {
	m := newMachine(t)
	o := m.limitOptions()
	o.proc = t.TempDir()
	if _, err := AttachLimit(t.Context(), o); !volume.IsKind(err, volume.KindInternal) ||
		!strings.Contains(err.Error(), "mountinfo") {
		t.Errorf("error %v, want kind Internal with the path of mountinfo", err)
	}
}

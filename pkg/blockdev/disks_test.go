package blockdev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

func TestDisksReturnsWholeDevices(t *testing.T) {
	m := newMachineWithDisks(t)
	m.writeFile("sys/devices/pci/nvme0/nvme0c0n1/hidden", "1\n") // a path of a multipath device has no number
	m.link("sys/block/nvme0c0n1", "sys/devices/pci/nvme0/nvme0c0n1")
	m.link("sys/block/gone", "sys/devices/gone") // removed during the call
	disks, err := m.Disks()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range disks {
		got = append(got, d.Name)
	}
	want := []string{"dm-0", "dm-1", "dm-2", "loop0", "md0", "nvme0n1", "nvme1n1", "rbd0", "sda", "vda", "zram0"}
	if !slices.Equal(got, want) {
		t.Errorf("disks %v, want %v", got, want)
	}
}

// The links of a disk and of a mapping may be there still when their files are no longer read.
func TestADeviceThatIsRemovedWhileItIsRead(t *testing.T) {
	m := newMachineWithDisks(t)
	m.removeWhileRead("sys/devices/pci/host0/block/sda/dev")
	disks, err := m.Disks()
	if err != nil || slices.ContainsFunc(disks, func(d Device) bool { return d.Name == "sda" }) || len(disks) != 10 {
		t.Errorf("disks %v, %v; want all 10 others", disks, err)
	}
	m.removeWhileRead("sys/devices/pci/host0/block/sda/sda1/dev")
	if partitions, err := m.Partitions(m.mustFind("8:0")); len(partitions) != 0 || err != nil {
		t.Errorf("partitions %v, %v; want none", partitions, err)
	}
	if _, err := m.Stack(m.mustFind("253:0")); !errors.Is(err, volume.ErrGone) {
		t.Errorf("the layers of a mapping on it: %v, want ErrGone", err)
	}
	m.removeWhileRead("sys/devices/pci/virtio1/block/vda/serial")
	if serial, err := m.Serial(m.mustFind("252:0")); serial != "" || err != nil {
		t.Errorf("serial %q, %v; want none", serial, err)
	}
}

func TestDisksFailsWithoutSysfs(t *testing.T) {
	m := newFakeMachine(t)
	_, err := m.Disks()
	if !errors.Is(err, fs.ErrNotExist) || volume.KindOf(err) == volume.KindNotFound ||
		!strings.Contains(err.Error(), "/sys") {
		t.Errorf("Disks without sysfs: %v, want an error that names /sys", err)
	}
}

func TestScanSCSIAsksEveryHost(t *testing.T) {
	m := newFakeMachine(t)
	if n, err := m.ScanSCSI(t.Context()); n != 0 || err != nil {
		t.Errorf("a machine without SCSI: %d hosts, %v; want 0", n, err)
	}
	for _, host := range []string{"host0", "host1"} {
		m.writeFile("sys/devices/pci/"+host+"/scan", "")
		m.link("sys/class/scsi_host/"+host, "sys/devices/pci/"+host)
	}
	if n, err := m.ScanSCSI(t.Context()); n != 2 || err != nil {
		t.Errorf("%d hosts, %v; want 2", n, err)
	}
	for _, host := range []string{"host0", "host1"} {
		if got := m.readFile("sys/devices/pci/" + host + "/scan"); got != "- - -\n" {
			t.Errorf("%q was written to the scan file of %s", got, host)
		}
	}
	// A host that fails does not keep the other hosts from a scan.
	m.writeFile("sys/devices/pci/host1/scan", "")
	scan := filepath.Join(m.root, "sys/devices/pci/host0/scan")
	if err := errors.Join(os.Remove(scan), os.Mkdir(scan, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.ScanSCSI(t.Context()); err == nil || m.readFile("sys/devices/pci/host1/scan") == "" {
		t.Errorf("a scan of which one host fails: %v; want an error, and a scan of the other host", err)
	}
}

func TestScanSCSIEndsWithItsContext(t *testing.T) {
	m := newFakeMachine(t)
	scan := filepath.Join(m.root, "sys/class/scsi_host/host0/scan")
	if err := os.MkdirAll(filepath.Dir(scan), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(scan, 0o600); err != nil { // without a reader the open hangs
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.ScanSCSI(ctx); volume.KindOf(err) != volume.KindDeadline {
		t.Errorf("got %v", err)
	}
	// Release the writer, also one that has not opened the FIFO yet.
	f, err := os.OpenFile(scan, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
}

func TestFlushRefusesANodeOfAnotherDevice(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("252:0")
	if err := m.Flush(t.Context(), d); err != nil {
		t.Error(err)
	}
	m.diskOfNode(d).number.Minor = 16
	if err := m.Flush(t.Context(), d); err == nil || !strings.Contains(err.Error(), "252:16") {
		t.Errorf("Flush of a node of another device: %v, want an error with 252:16", err)
	}
}

func TestInUseErrorTellsMountsFromPrograms(t *testing.T) {
	m := newMachineWithDisks(t)
	wantInUse := func(number string, kind volume.Kind, word string) {
		t.Helper()
		err := m.InUseError(m.mustFind(number))
		if volume.KindOf(err) != kind || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want kind %s with %q", number, err, kind, word)
		}
	}
	wantInUse("8:0", volume.KindPrecondition, "dm-0")
	wantInUse("252:0", volume.KindDeadline, "program")
	name := m.mustFind("252:0").Name
	m.writeFile("sys/fs/btrfs/0d6f7c2e/devices/other/dev", "")
	wantInUse("252:0", volume.KindDeadline, "program")
	m.writeFile("sys/fs/xfs/"+name+"/log/x", "")
	wantInUse("252:0", volume.KindPrecondition, "a mount of the xfs filesystem on "+name)
	m.writeFile("proc/mountinfo", "22 1 252:16 / /b rw - xfs /dev/vdb rw\n23 1 252:0 / /a rw - xfs /dev/vda rw\n")
	m.mountinfo = m.makeParent("proc/mountinfo")
	wantInUse("252:0", volume.KindPrecondition, "still in use: mounted at /a (next step")
}

func TestMountedFilesystem(t *testing.T) {
	m := newFakeMachine(t)
	for i, c := range []struct{ path, want string }{
		{"sys/fs/ext4/%s/delayed_allocation_blocks", "ext4"},
		{"sys/fs/xfs/%s/log/x", "xfs"},
		{"sys/fs/f2fs/%s/features", "f2fs"},
		{"sys/fs/btrfs/0d6f7c2e/devices/%s/dev", "btrfs"},
		{"sys/fs/ext4/features/%s", ""},
	} {
		name := fmt.Sprintf("vd%c", 'a'+i)
		number := fmt.Sprintf("252:%d", i)
		m.addDevice(name, number, nil)
		d := m.mustFind(number)
		if got := m.MountedFilesystem(d); got != "" {
			t.Errorf("%s: mounted as %q", name, got)
		}
		m.writeFile(fmt.Sprintf(c.path, name), "")
		if got := m.MountedFilesystem(d); got != c.want {
			t.Errorf("%s: mounted as %q, want %q", name, got, c.want)
		}
	}
	if got := m.MountedFilesystem(Device{Name: "*"}); got != "" {
		t.Errorf("a name that is a glob pattern: mounted as %q, want none", got)
	}
}

// TestRealMountedFilesystemOfAnotherNamespace mounts a filesystem in a mount namespace of
// its own; the kernel shows it in /sys/fs all the same.
func TestRealMountedFilesystemOfAnotherNamespace(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		d, _ := newLoopDevice(t, 512*volume.MiB)
		s := New()
		if out, err := exec.CommandContext(t.Context(), "mkfs."+fsType, "-q", d.Path).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.%s: %v: %s", fsType, err, out)
		}
		dir := t.TempDir()
		// The shell keeps the namespace, and so the mount, until its input ends.
		script := fmt.Sprintf("mount -t %s %s %s && echo mounted && read line", fsType, d.Path, dir)
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation=private", "sh", "-c", script)
		stdin, err1 := cmd.StdinPipe()
		stdout, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if err != nil {
			_ = stdin.Close()
			t.Skipf("needs mounts: %v, %v", err, cmd.Wait())
		}
		if got := s.MountedFilesystem(d); got != fsType || line == "" {
			t.Errorf("mounted as %q, want %q", got, fsType)
		}
		err = s.Flush(t.Context(), d)
		if volume.KindOf(err) != volume.KindPrecondition || !strings.Contains(err.Error(), fsType) {
			t.Errorf("Flush of a mounted device: %v, want kind Precondition and the type %s", err, fsType)
		}
		_ = stdin.Close()
		_ = cmd.Wait() // fails, because read(1) ends with its input
		if got := s.MountedFilesystem(d); got != "" {
			t.Errorf("mounted as %q after the unmount, want none", got)
		}
	}
}

func TestRealFlushFailsWhileAProgramHasTheDevice(t *testing.T) {
	d, _ := newLoopDevice(t, 64*volume.MiB)
	s := New()
	disks, err := s.Disks()
	if err != nil || !slices.Contains(disks, d) {
		t.Errorf("%s is not among the disks %v, %v", d, disks, err)
	}
	claim, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context(), d); volume.KindOf(err) != volume.KindDeadline {
		t.Errorf("Flush of a claimed device: %v, want kind Deadline", err)
	}
	if err := errors.Join(claim.Close(), s.Flush(t.Context(), d)); err != nil {
		t.Error(err)
	}
	for _, want := range []bool{true, false} {
		if err := s.SetReadOnly(d, want); err != nil {
			t.Fatal(err)
		}
		if got, err := s.IsReadOnly(d); err != nil || got != want {
			t.Errorf("read-only %t, %v, want %t", got, err, want)
		}
	}
}

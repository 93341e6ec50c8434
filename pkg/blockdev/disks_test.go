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

func TestDisks(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	r.writeFile("sys/devices/pci/nvme0/nvme0c0n1/hidden", "1\n") // a path of a multipath device: no number
	r.link("sys/block/nvme0c0n1", "sys/devices/pci/nvme0/nvme0c0n1")
	r.link("sys/block/gone", "sys/devices/gone") // unplugged in this moment
	disks, err := r.Disks()
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

func TestDisksWithoutSysfs(t *testing.T) {
	r := newFakeMachine(t)
	if _, err := r.Disks(); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/sys") || volume.IsKind(err, volume.KindNotFound) {
		t.Errorf("%v", err)
	}
}

func TestScanSCSI(t *testing.T) {
	r := newFakeMachine(t)
	if n, err := r.ScanSCSI(t.Context()); n != 0 || err != nil {
		t.Errorf("a machine without SCSI: %d, %v", n, err)
	}
	for _, host := range []string{"host0", "host1"} {
		r.writeFile("sys/devices/pci/"+host+"/scan", "")
		r.link("sys/class/scsi_host/"+host, "sys/devices/pci/"+host)
	}
	if n, err := r.ScanSCSI(t.Context()); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, host := range []string{"host0", "host1"} {
		if got := r.readFile("sys/devices/pci/" + host + "/scan"); got != "- - -\n" {
			t.Errorf("%s was told %q", host, got)
		}
	}
	// One that fails keeps no other from looking.
	r.writeFile("sys/devices/pci/host1/scan", "")
	scan := filepath.Join(r.root, "sys/devices/pci/host0/scan")
	if err := errors.Join(os.Remove(scan), os.Mkdir(scan, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ScanSCSI(t.Context()); err == nil || r.readFile("sys/devices/pci/host1/scan") == "" {
		t.Errorf("%v", err)
	}
}

// A host that does not answer must not outlive the caller's patience.
func TestScanSCSIObeysTheContext(t *testing.T) {
	r := newFakeMachine(t)
	scan := filepath.Join(r.root, "sys/class/scsi_host/host0/scan")
	if err := os.MkdirAll(filepath.Dir(scan), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(scan, 0o600); err != nil { // nobody reads: the open hangs
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.ScanSCSI(ctx); volume.KindOf(err) != volume.KindDeadline {
		t.Errorf("got %v", err)
	}
	// Let the writer go, also one that has not come that far.
	f, err := os.OpenFile(scan, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
}

func TestFlushVerifiesTheNumber(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("252:0")
	if err := r.Flush(t.Context(), d); err != nil {
		t.Error(err)
	}
	r.fake.nodes[d.Path].minor = 16
	if err := r.Flush(t.Context(), d); err == nil || !strings.Contains(err.Error(), "252:16") {
		t.Errorf("another device was flushed: %v", err)
	}
}

// Mounts and mappings stay until a person acts; a program ends by itself.
func TestClaimedTellsWhatStaysFromWhatPasses(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	wantClaim := func(number string, kind volume.Kind, word string) {
		t.Helper()
		if err := r.inUseError(r.mustFind(number)); volume.KindOf(err) != kind || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want kind %s with %q", number, err, kind, word)
		}
	}
	wantClaim("8:0", volume.KindPrecondition, "dm-0")
	wantClaim("252:0", volume.KindDeadline, "program")
	name := r.mustFind("252:0").Name
	r.writeFile("sys/fs/btrfs/0d6f7c2e/devices/other/dev", "")
	wantClaim("252:0", volume.KindDeadline, "program")
	r.writeFile("sys/fs/xfs/"+name+"/log/x", "")
	wantClaim("252:0", volume.KindPrecondition, "xfs")
}

func TestMountedAs(t *testing.T) {
	r := newFakeMachine(t)
	for i, c := range []struct{ path, want string }{
		{"sys/fs/ext4/%s/delayed_allocation_blocks", "ext4"},
		{"sys/fs/xfs/%s/log/x", "xfs"},
		{"sys/fs/f2fs/%s/features", "f2fs"},
		{"sys/fs/btrfs/0d6f7c2e/devices/%s/dev", "btrfs"},
		{"sys/fs/ext4/features/%s", ""},
	} {
		name := fmt.Sprintf("vd%c", 'a'+i)
		number := fmt.Sprintf("252:%d", i)
		r.addDevice(name, number, volume.GiB, nil)
		d := r.mustFind(number)
		if got := r.MountedFilesystem(d); got != "" {
			t.Errorf("%s: mounted as %q", name, got)
		}
		r.writeFile(fmt.Sprintf(c.path, name), "")
		if got := r.MountedFilesystem(d); got != c.want {
			t.Errorf("%s: mounted as %q, want %q", name, got, c.want)
		}
	}
	if got := r.MountedFilesystem(Device{Name: "*"}); got != "" {
		t.Errorf("a name that is a pattern: %q", got)
	}
}

// The kernel shows mounts of every mount namespace.
func TestRealMountedAs(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		d, _ := newLoopDevice(t, 512*volume.MiB)
		s := New()
		if out, err := exec.CommandContext(t.Context(), "mkfs."+fsType, "-q", d.Path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		dir := t.TempDir()
		// unshare(1) keeps the mount in a namespace of its own until its input ends.
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
		if err := s.Flush(t.Context(), d); volume.KindOf(err) != volume.KindPrecondition || !strings.Contains(err.Error(), fsType) {
			t.Errorf("flushed while it is mounted: %v", err)
		}
		_ = stdin.Close()
		_ = cmd.Wait() // read fails at the end of its input
		if got := s.MountedFilesystem(d); got != "" {
			t.Errorf("mounted as %q after the unmount", got)
		}
	}
}

func TestRealFlushAndReadOnly(t *testing.T) {
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
	if err := s.Flush(t.Context(), d); volume.KindOf(err) != volume.KindDeadline { // by a program: it will end
		t.Errorf("flushed while it is claimed: %v", err)
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

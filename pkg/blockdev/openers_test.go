package blockdev

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestInUseErrorNamesMountsOfOtherNamespaces(t *testing.T) {
	m := newMachineWithDisks(t)
	m.proc = filepath.Join(m.root, "proc")
	const table = "36 35 252:0 / /data rw,noatime shared:1 - ext4 /dev/vda rw\n"
	for pid, namespace := range map[string]string{"1": "mnt:[1]", "20": "mnt:[2]", "30": "mnt:[2]"} {
		m.writeFile("proc/"+pid+"/comm", "program"+pid+"\n")
		m.writeFile("proc/"+pid+"/ns/pid", "")
		if err := os.Symlink(namespace, filepath.Join(m.proc, pid, "ns", "mnt")); err != nil {
			t.Fatal(err)
		}
		if namespace == "mnt:[2]" {
			m.writeFile("proc/"+pid+"/mountinfo", table)
		}
	}
	err := m.InUseError(m.mustFind("252:0"))
	const want = "still in use: mounted at /data in the mount namespace of process 20 (program20) (next step"
	if !volume.IsKind(err, volume.KindPrecondition) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want kind precondition and %q", err, want)
	}
}

func TestInUseErrorNamesLoopDevices(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("251:0")
	m.writeFile("sys/block/loop7/loop/backing_file", d.Path+"\n")
	err := m.InUseError(d)
	if !volume.IsKind(err, volume.KindPrecondition) || !strings.Contains(err.Error(), "by "+filepath.Join(m.dev, "loop7")) {
		t.Errorf("got %v, want kind precondition and loop7 named", err)
	}
}

// The test opens a real device for reading, if the machine has one.
func TestOpenersNamesThisProcess(t *testing.T) {
	s := New()
	disks, err := s.Disks()
	if err != nil {
		t.Skipf("cannot list the disks: %v", err)
	}
	for _, d := range disks {
		f, err := s.open(d, os.O_RDONLY)
		if err != nil {
			continue
		}
		got := strings.Join(s.openers(d), ", ")
		if want := fmt.Sprintf("process %d (", os.Getpid()); !strings.Contains(got, want) {
			t.Errorf("%s is open in %q, want %q", d, got, want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if got := strings.Join(s.openers(d), ", "); strings.Contains(got, fmt.Sprintf("process %d (", os.Getpid())) {
			t.Errorf("%s is open in %q after its close", d, got)
		}
		return
	}
	t.Skip("no disk of this machine can be opened")
}

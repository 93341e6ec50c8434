package blockdev

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// scsiDebug is the directory of the kernel module scsi_debug, which a guest kernel can load.
const scsiDebug = "/sys/bus/pseudo/drivers/scsi_debug"

// scsiDebugDisks returns the directories of the module's disks; it skips the test without any.
func scsiDebugDisks(t *testing.T) []string {
	t.Helper()
	disks, err := filepath.Glob(filepath.Join(scsiDebug, "adapter*/host*/target*/*:*/block/*"))
	if err != nil || len(disks) == 0 {
		t.Skip("needs a disk of the module scsi_debug")
	}
	return disks
}

// TestRealFilesOfARemovedDisk shows the answer for a file that was opened before the removal.
func TestRealFilesOfARemovedDisk(t *testing.T) {
	before := scsiDebugDisks(t)
	addHost := func(number string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(scsiDebug, "add_host"), []byte(number), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addHost("1")
	var added string
	for deadline := time.Now().Add(time.Minute); added == ""; { // the kernel looks for disks in the background
		if time.Now().After(deadline) {
			t.Fatal("the new disk does not appear within a minute")
		}
		for _, dir := range scsiDebugDisks(t) {
			if !slices.Contains(before, dir) {
				added = dir
			}
		}
	}
	files := map[string]*os.File{}
	for _, name := range []string{"dev", "uevent", "size", "device/vpd_pg80"} {
		f, err := os.Open(filepath.Join(added, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		files[name] = f
	}
	addHost("-1")
	for name, f := range files {
		if _, err := io.ReadAll(f); !errors.Is(err, unix.ENODEV) {
			t.Errorf("%s: %v, want ENODEV", name, err)
		}
	}
}

// TestRealAwaitSizeRescansASCSIDisk grows a disk of scsi_debug: the disk keeps its old size
// until a rescan.
func TestRealAwaitSizeRescansASCSIDisk(t *testing.T) {
	disks := scsiDebugDisks(t)
	s := New()
	d, err := s.deviceInDir(disks[0])
	if err != nil || d.Kind != KindSCSI {
		t.Fatalf("device %+v, %v; want kind scsi", d, err)
	}
	serial, err := s.Serial(d)
	if err != nil || serial == "" {
		t.Errorf("serial %q, %v", serial, err)
	}
	t.Logf("%s, serial %q", d, serial)
	before, err := s.Size(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(scsiDebug, "virtual_gb"), []byte("3"), 0o600); err != nil {
		t.Fatal(err)
	}
	if size, err := s.Size(d); err != nil || size != before {
		t.Fatalf("before the rescan: %s, %v; want the old size", size, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if size, err := s.AwaitSize(ctx, d, 3*volume.GiB); err != nil || size < 3*volume.GiB {
		t.Errorf("after the rescan: %s, %v; want 3 GiB", size, err)
	}
}

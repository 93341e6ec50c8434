package blockdev

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// TestRealAwaitSizeRescansASCSIDisk grows a disk of the kernel module scsi_debug, which a
// guest kernel can load: the disk keeps its old size until a rescan.
func TestRealAwaitSizeRescansASCSIDisk(t *testing.T) {
	const driver = "/sys/bus/pseudo/drivers/scsi_debug/virtual_gb"
	disks, err := filepath.Glob("/sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*:*/block/*")
	if err != nil || len(disks) == 0 {
		t.Skip("needs a disk of the module scsi_debug")
	}
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
	if err := os.WriteFile(driver, []byte("3"), 0o600); err != nil {
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

package loopdev

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/looptest"
)

// With reflinks (XFS) a snapshot of a mounted volume is one point in time, and a volume
// that is created from the snapshot can be mounted.
func TestSnapshotOfMountedVolumeCanBeRestored(t *testing.T) {
	m := newMachine(t, filepath.Join(looptest.MountFilesystem(t, "xfs", volume.GiB, "-m", "reflink=1"), "pool"))
	file := filepath.Join(m.mount(m.connect(false).Path), "file")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	s, err := m.backend.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: m.id})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("after!"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := m.backend.Restore(t.Context(), volume.CreateRequest{
		Name: "r", Size: 128 * volume.MiB, Source: volume.Source{SnapshotID: s.ID},
	})
	if err != nil || r.Size != 128*volume.MiB {
		t.Fatalf("got %+v, %v, want 128 MiB", r, err)
	}
	m.attach(r.ID)
	restored := machine{t, m.backend, m.connector, r.ID}
	conn := restored.connect(false)
	t.Cleanup(restored.disconnect)
	dir := t.TempDir()
	if err := unix.Mount(conn.Path, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "before" {
		t.Errorf("restored file: got %q, %v, want %q", got, err, "before")
	}
}

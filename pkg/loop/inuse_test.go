package loop

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// ext4 has no reflinks: what is written to is not copied, what is only
// attached is.
func TestSnapshotOfAVolumeInUse(t *testing.T) {
	m := newMachine(t, "")
	m.b.loops.kernel = plainCopy{linux{}}
	req := volume.SnapshotRequest{Name: "s", VolumeID: m.id}
	m.connect(false)
	_, err := m.b.CreateSnapshot(t.Context(), req)
	wantKind(t, err, volume.KindPrecondition, m.id, "reflink")
	_, err = m.b.CloneVolume(t.Context(), volume.CreateRequest{Name: "c", Size: volume.GiB, Source: volume.Source{VolumeID: m.id}})
	wantKind(t, err, volume.KindPrecondition, m.id)
	if snaps, _, err := m.b.ListSnapshots(t.Context(), volume.SnapshotFilter{}, volume.Page{}); err != nil || len(snaps) != 0 {
		t.Errorf("%v, %v", snaps, err)
	}
	m.disconnect()
	if _, err := m.b.CreateSnapshot(t.Context(), req); err != nil {
		t.Error(err)
	}
}

// xfs makes an XFS filesystem, which has reflinks, and returns where it is
// mounted.
func xfs(t *testing.T) string {
	t.Helper()
	return filesystem(t, "xfs", volume.GiB, "-m", "reflink=1")
}

// With reflinks a snapshot of a mounted volume is one point in time, and a
// volume made of it mounts.
func TestReflinkOfAVolumeInUse(t *testing.T) {
	m := newMachine(t, filepath.Join(xfs(t), "pool"))
	dir := m.mount(m.connect(false).Path)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	s, err := m.b.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: m.id})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("after!"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := m.b.Restore(t.Context(), volume.CreateRequest{Name: "r", Size: 128 * volume.MiB, Source: volume.Source{SnapshotID: s.ID}})
	if err != nil || r.Size != 128*volume.MiB {
		t.Fatalf("%+v, %v", r, err)
	}
	attach(t, m.b, r.ID)
	restored := machine{t, m.b, m.c, r.ID}
	conn := restored.connect(false)
	t.Cleanup(restored.disconnect)
	at := t.TempDir()
	if err := unix.Mount(conn.Path, at, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	if got, err := os.ReadFile(filepath.Join(at, "file")); err != nil || string(got) != "before" {
		t.Errorf("%q, %v", got, err)
	}
}

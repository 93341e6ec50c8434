package loop

import (
	"errors"
	"os"
	"os/exec"
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
	wantKind(t, err, volume.Precondition, m.id, "reflink")
	_, err = m.b.CloneVolume(t.Context(), volume.CreateRequest{Name: "c", Size: volume.GiB, Source: volume.Source{VolumeID: m.id}})
	wantKind(t, err, volume.Precondition, m.id)
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
	needLoops(t)
	if _, err := exec.LookPath("mkfs.xfs"); err != nil {
		t.Skipf("needs xfsprogs: %v", err)
	}
	file, dir := filepath.Join(t.TempDir(), "xfs"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, volume.GiB.Bytes()); err != nil {
		t.Fatal(err)
	}
	m := machine{T: t}
	m.run("mkfs.xfs", "-q", "-m", "reflink=1", file)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoops()
	d, err := l.bind(f, "xfs", false)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Unmount(dir, 0)
		dev, err := os.Open(d.path)
		if err == nil {
			err = errors.Join(l.kernel.ClearFile(dev), dev.Close())
		}
		if err != nil {
			t.Errorf("detach %s: %v", d.path, err)
		}
	})
	if err := unix.Mount(d.path, dir, "xfs", 0, ""); err != nil {
		t.Skipf("needs XFS: %v", err)
	}
	return dir
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

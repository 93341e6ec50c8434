package loopdev

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/losetup"
	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/looptest"
)

// deletions delete a connected volume's files, which the driver itself refuses: as a
// person does, and as the driver does by way of pending.
func deletions() map[string]func(machine) error {
	return map[string]func(machine) error{
		"by a person": func(m machine) error { return os.RemoveAll(m.connector.dir.Path(volumedir.Volumes, m.id)) },
		"by the driver": func(m machine) error {
			pending := m.connector.dir.PendingPath(m.id)
			return errors.Join(os.Rename(m.connector.dir.Path(volumedir.Volumes, m.id), pending), os.RemoveAll(pending))
		},
	}
}

// wantGone fails the test unless the error has the kind and wraps volume.ErrGone.
func wantGone(t *testing.T, err error, kind volume.Kind, words ...string) {
	t.Helper()
	volumetest.WantKind(t, err, kind, words...)
	if !errors.Is(err, volume.ErrGone) {
		t.Errorf("got %v, want it to wrap ErrGone", err)
	}
}

// Disconnect releases the device of a deleted volume, also where a link leads to the
// directory.
func TestDisconnectReleasesDeviceOfDeletedVolume(t *testing.T) {
	for name, remove := range deletions() {
		for _, linked := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "pool")
				if linked {
					if err := os.Symlink(t.TempDir(), dir); err != nil {
						t.Fatal(err)
					}
				}
				m := newMachine(t, dir)
				m.connect(false)
				d := m.devices()[0]
				if err := remove(m); err != nil {
					t.Fatal(err)
				}
				// The device proves that this volume is gone, but says nothing of others.
				wantGone(t, m.connector.Verify(t.Context(), m.id, d.Path), volume.KindNotFound, d.Path)
				err := m.connector.Verify(t.Context(), otherID, d.Path)
				if volumetest.WantKind(t, err, volume.KindNotFound); errors.Is(err, volume.ErrGone) {
					t.Errorf("another volume: got %v, want it not to wrap ErrGone", err)
				}
				m.disconnect()
				wantReleased(t, d)
			})
		}
	}
}

// A name that is used again gives the same id. The device of the deleted volume, which
// keeps its inode in use, never passes for the new volume.
func TestDeviceOfDeletedVolumeIsNotUsedForNewOne(t *testing.T) {
	for name, remove := range deletions() {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, filepath.Join(looptest.MountFilesystem(t, "ext4", 64*volume.MiB), "pool"))
			m.connect(false)
			old := m.devices()[0]
			if err := remove(m); err != nil {
				t.Fatal(err)
			}
			// ext4 gives the number of a free inode to the next file.
			if id := m.create("a", 32*volume.MiB); id != m.id {
				t.Fatalf("got id %s, want %s again", id, m.id)
			}
			m.attach(m.id)
			wantGone(t, m.connector.Verify(t.Context(), m.id, old.Path), volume.KindPrecondition, old.Path)
			m.wantLocated(volume.Connection{})
			// A user of the old device neither blocks the new volume nor loses the device.
			f, err := os.OpenFile(old.Path, os.O_RDONLY|unix.O_EXCL, 0)
			if err != nil {
				t.Fatal(err)
			}
			if conn := m.connect(false); conn.Path == old.Path || conn.Size != 32*volume.MiB {
				t.Errorf("got %+v, want another device than %s, of 32 MiB", conn, old.Path)
			}
			m.disconnect()
			if _, err := losetup.New().Status(old.Path); err != nil {
				t.Errorf("%s was released during its use: %v", old.Path, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			m.disconnect()
			wantReleased(t, old)
		})
	}
}

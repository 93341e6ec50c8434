package loop

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// deletions take a connected volume away, which the driver itself refuses.
func deletions() map[string]func(machine) error {
	return map[string]func(machine) error{
		"by force":      func(m machine) error { return os.RemoveAll(m.b.store.path(volumes, m.id)) },
		"by the driver": func(m machine) error { return m.b.store.remove(m.Context(), volumes, m.id) },
	}
}

// lost checks that a device has its file no more. It may have another's: devices
// are the whole machine's.
func lost(t *testing.T, d device) {
	t.Helper()
	info, err := newLoops().status(d.path)
	if err == nil && d.has(info) || err != nil && !errors.Is(err, unix.ENXIO) {
		t.Errorf("%s still has the deleted file (%v)", d.path, err)
	}
}

// The device of a deleted volume goes with Disconnect, also where the
// directory is reached by a link.
func TestDisconnectOrphan(t *testing.T) {
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
				// What the volume held is gone, on this device and on no other.
				err := m.c.Verify(t.Context(), m.id, d.path)
				if wantKind(t, err, volume.KindNotFound, d.path); !errors.Is(err, volume.ErrGone) {
					t.Errorf("%v does not say that the device is gone", err)
				}
				if err := m.c.Verify(t.Context(), volumes.id("another"), d.path); !missing(err) || errors.Is(err, volume.ErrGone) {
					t.Errorf("another volume: %v", err)
				}
				m.disconnect()
				lost(t, d)
			})
		}
	}
}

// A name that is used again gives the same id. The device of the earlier
// volume, which keeps its inode alive, is never taken for the new one.
func TestSameNameAgain(t *testing.T) {
	for name, remove := range deletions() {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, filepath.Join(filesystem(t, "ext4", 64*volume.MiB), "pool"))
			m.connect(false)
			d := m.devices()[0]
			stale := d.path
			if err := remove(m); err != nil {
				t.Fatal(err)
			}
			// ext4 gives the number of a free inode to the next file.
			if again := create(t, m.b, "a", 32*volume.MiB); again.ID != m.id {
				t.Fatalf("another id: %s", again.ID)
			}
			attach(t, m.b, m.id)
			err := m.c.Verify(t.Context(), m.id, stale)
			if wantKind(t, err, volume.KindPrecondition, stale); !errors.Is(err, volume.ErrGone) {
				t.Errorf("%v does not say that the earlier volume is gone", err)
			}
			if conn, connected, err := m.c.Locate(t.Context(), m.id); connected || err != nil {
				t.Errorf("%+v, %v", conn, err)
			}
			// Its user neither blocks the new volume nor loses the device.
			f, err := os.OpenFile(stale, os.O_RDONLY|unix.O_EXCL, 0)
			if err != nil {
				t.Fatal(err)
			}
			if conn := m.connect(false); conn.Path == stale || conn.Size != 32*volume.MiB {
				t.Errorf("%+v", conn)
			}
			m.disconnect()
			if _, err := newLoops().status(stale); err != nil {
				t.Errorf("taken from under its user: %v", err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			m.disconnect()
			lost(t, d)
		})
	}
}

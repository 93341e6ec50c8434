package loop

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// filesystem makes a filesystem in a file and returns where it is mounted.
func filesystem(t *testing.T, fstype string, size volume.Size, options ...string) string {
	t.Helper()
	needLoops(t)
	if _, err := exec.LookPath("mkfs." + fstype); err != nil {
		t.Skipf("needs mkfs.%s: %v", fstype, err)
	}
	file, dir := filepath.Join(t.TempDir(), fstype), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size.Bytes()); err != nil {
		t.Fatal(err)
	}
	m := machine{T: t}
	m.run("mkfs."+fstype, append(append([]string{"-q"}, options...), file)...)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoops()
	d, err := l.bind(f, fstype, false)
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
	if err := unix.Mount(d.path, dir, fstype, 0, ""); err != nil {
		t.Skipf("needs %s: %v", fstype, err)
	}
	return dir
}

// fillUp leaves no room on a filesystem: neither for data nor, where they
// need a block, for directories.
func fillUp(t *testing.T, dir string) {
	t.Helper()
	for _, chunk := range []int{1 << 20, 4096, 1} {
		f, err := os.Create(filepath.Join(dir, "filler-"+strconv.Itoa(chunk)))
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for data := make([]byte, chunk); err == nil; {
			if _, err = f.Write(data); err == nil && chunk == 1 {
				break // the last block has room for many
			}
		}
		_ = f.Sync()
		if cerr := f.Close(); err != nil && !errors.Is(err, unix.ENOSPC) || cerr != nil {
			t.Fatal(err, cerr)
		}
	}
	const most = 10000
	for i := range most {
		err := os.Mkdir(filepath.Join(dir, "filler-dir-"+strconv.Itoa(i)), 0o700)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "proof"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the filesystem is not full: %v", err)
	}
}

// A filesystem without a free byte can be emptied by the driver.
func TestDetachAndDeleteOnAFullFilesystem(t *testing.T) {
	for fstype, filesystem := range map[string]func(t *testing.T) string{
		"ext4": func(t *testing.T) string { t.Helper(); return filesystem(t, "ext4", 64*volume.MiB, "-m", "0") },
		"xfs":  func(t *testing.T) string { t.Helper(); return filesystem(t, "xfs", 320*volume.MiB) },
	} {
		t.Run(fstype, func(t *testing.T) {
			mnt := filesystem(t)
			b := newBackend(t, func(o *Options) { o.Dir = filepath.Join(mnt, "pool") })
			a, other := create(t, b, "a", volume.GiB), create(t, b, "b", volume.GiB)
			attach(t, b, a.ID)
			fill(t, b, a.ID, "content", 0)
			fillUp(t, mnt)

			_, err := b.Attach(t.Context(), volume.AttachRequest{ID: other.ID, Node: node, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}})
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("attach: %v", err)
			}
			_, err = b.Create(t.Context(), request("c", volume.GiB))
			wantKind(t, err, volume.KindOutOfRange, "no room")
			want := objectFiles("volumes/"+a.ID, "volumes/"+a.ID+"/"+attachFile, "volumes/"+other.ID)
			if files := tree(t, b); !slices.Equal(files, want) {
				t.Errorf("the refused calls left %v", files)
			}
			for _, id := range []string{a.ID, other.ID} {
				if err := b.Detach(t.Context(), id, node); err != nil {
					t.Errorf("detach: %v", err)
				}
				if err := b.Delete(t.Context(), id); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
			if files := tree(t, b); len(files) != 0 {
				t.Errorf("left %v", files)
			}
		})
	}
}

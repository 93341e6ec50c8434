package loop

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/looptest"
)

// fillFilesystem uses all space of a filesystem, so that neither data nor, where they need
// a block, directories fit.
func fillFilesystem(t *testing.T, dir string) {
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
				break // the last block would take thousands of them
			}
		}
		_ = f.Sync()
		if cerr := f.Close(); err != nil && !errors.Is(err, unix.ENOSPC) || cerr != nil {
			t.Fatal(err, cerr)
		}
	}
	const maxDirs = 10000
	for i := range maxDirs {
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

func TestDetachAndDeleteWorkOnFullFilesystem(t *testing.T) {
	for _, test := range []struct {
		fsType  string
		size    volume.Size
		options []string
	}{
		{"ext4", 64 * volume.MiB, []string{"-m", "0"}},
		{"xfs", 320 * volume.MiB, nil},
	} {
		t.Run(test.fsType, func(t *testing.T) {
			mnt := looptest.MountFilesystem(t, test.fsType, test.size, test.options...)
			b := openBackend(t, func(o *Options) { o.Dir = filepath.Join(mnt, "pool") })
			a, other := createVolume(t, b, "a", volume.GiB), createVolume(t, b, "b", volume.GiB)
			attachVolume(t, b, a.ID)
			writeData(t, b, a.ID, "content", 0)
			fillFilesystem(t, mnt)

			_, err := b.Attach(t.Context(), attachRequest(other.ID))
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("attach: got %v, want ENOSPC", err)
			}
			_, err = b.Create(t.Context(), blankRequest("c", volume.GiB))
			volumetest.WantKind(t, err, volume.KindOutOfRange, "no space")
			wantFiles(t, b, "volumes/"+a.ID, "volumes/"+a.ID+"/"+volumedir.AttachmentFile, "volumes/"+other.ID)
			for _, id := range []string{a.ID, other.ID} {
				if err := b.Detach(t.Context(), id, testNode); err != nil {
					t.Errorf("detach: %v", err)
				}
				if err := b.Delete(t.Context(), id); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
			wantFiles(t, b)
		})
	}
}

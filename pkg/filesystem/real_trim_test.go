package filesystem

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// allocated returns what the file of the loop device occupies.
func (d loopDisk) allocated(t *testing.T) volume.Size {
	t.Helper()
	unix.Sync()
	info, err := os.Stat(d.file)
	if err != nil {
		t.Fatal(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no blocks in the answer of stat")
	}
	return volume.Size(st.Blocks) * 512
}

func TestRealTrimFreesTheSpaceOfADeletedFile(t *testing.T) {
	for _, fs := range []Type{TypeExt3, TypeExt4, TypeXFS, TypeBtrfs} {
		t.Run(string(fs), func(t *testing.T) {
			ctx, s := t.Context(), New(Options{})
			d := newDisk(t, 3*volume.GiB)
			marker := filepath.Join(t.TempDir(), "marker")
			if err := s.Format(ctx, FormatRequest{Device: d.open(t), Type: fs, Marker: marker}); err != nil {
				t.Fatal(err)
			}
			target := d.mount(t, s, fs)
			mustRun(t, "dd", "if=/dev/urandom", "of="+filepath.Join(target, "data"), "bs=1M", "count=64", "conv=fsync")
			written := d.allocated(t)
			if err := os.Remove(filepath.Join(target, "data")); err != nil {
				t.Fatal(err)
			}
			if deleted := d.allocated(t); deleted < written {
				t.Errorf("deleting alone has freed %s; the test proves nothing", written-deleted)
			}
			trimmed, err := s.Trim(ctx, TrimRequest{Device: d.open(t), MountPoint: target})
			freed := written - d.allocated(t)
			t.Logf("discarded %s, freed %s", trimmed, freed)
			if err != nil || freed < 60*volume.MiB || trimmed < freed || trimmed > 3*volume.GiB {
				t.Errorf("discarded %s, freed %s, %v; want about 64 MiB freed, and no byte discarded twice", trimmed, freed, err)
			}
			mustRun(t, "mount", "-o", "remount,ro", target)
			_, err = s.Trim(ctx, TrimRequest{Device: d.open(t), MountPoint: target})
			volumetest.WantKind(t, err, volume.KindUnsupported, "is read-only")
		})
	}
}

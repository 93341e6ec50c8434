package filesystem

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

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

func freeBytes(t *testing.T, mountPoint string) volume.Size {
	t.Helper()
	unix.Sync() // btrfs counts the blocks of written and of deleted data with its next transaction
	var st unix.Statfs_t
	if err := unix.Statfs(mountPoint, &st); err != nil {
		t.Fatal(err)
	}
	return volume.Size(st.Bfree) * volume.Size(st.Bsize) //nolint:gosec // a small filesystem
}

// waitForFree waits until the filesystem has this many free bytes: XFS frees the blocks of a
// deleted file later than unlink and sync return (fs/xfs/xfs_icache.c, xfs_inodegc_worker), and a
// trim discards only what is free.
func waitForFree(t *testing.T, mountPoint string, want volume.Size) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for free := freeBytes(t, mountPoint); free < want; free = freeBytes(t, mountPoint) {
		if ctx.Err() != nil {
			t.Fatalf("%s has %s free a minute after the file was deleted, want %s", mountPoint, free, want)
		}
	}
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
			written, freeBefore := d.allocated(t), freeBytes(t, target)
			if err := os.Remove(filepath.Join(target, "data")); err != nil {
				t.Fatal(err)
			}
			waitForFree(t, target, freeBefore+60*volume.MiB)
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

package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

var errCrash = errors.New("the process died")

// crashAt makes every step from the n-th on fail, cleaning up included, as
// if the process had died before it. It tells how many steps were made.
func crashAt(b *Backend, n int) (made *int) {
	made = new(int)
	b.store.disk.before = func(step, path string) error {
		if *made++; n >= 0 && *made > n {
			return fmt.Errorf("%s %s: %w", step, path, errCrash)
		}
		return nil
	}
	return made
}

// reopened is the backend of a new process, without what New removes.
func reopened(b *Backend) *Backend {
	return &Backend{opts: b.opts, store: &store{dir: b.opts.Dir}, loops: b.loops, log: b.log}
}

type crashCase struct {
	name    string
	prepare func(t *testing.T, b *Backend)
	run     func(t *testing.T, b *Backend) error
	check   func(t *testing.T, b *Backend) // the state after a success
	objects []string                       // what is there then
}

var (
	volA  = volumes.id("a")
	volB  = volumes.id("b")
	snapS = snapshots.id("s")
)

func makeA(t *testing.T, b *Backend) {
	t.Helper()
	create(t, b, "a", volume.MiB)
	fill(t, b, volA, "content", 0)
}

func makeSnapshot(t *testing.T, b *Backend) error {
	t.Helper()
	_, err := b.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: volA})
	return err
}

func makeAAndSnapshot(t *testing.T, b *Backend) {
	t.Helper()
	makeA(t, b)
	if err := makeSnapshot(t, b); err != nil {
		t.Fatal(err)
	}
}

func hasContent(c class, id string, size volume.Size) func(*testing.T, *Backend) {
	return func(t *testing.T, b *Backend) {
		t.Helper()
		o, err := b.store.load(c, id)
		if err != nil || o.size != size || o.Name == "" {
			t.Errorf("%+v, %v", o, err)
		}
		if got := content(t, b, c, id, 0, 7); got != "content" {
			t.Errorf("content %q", got)
		}
	}
}

func attached(want bool) func(*testing.T, *Backend) {
	return func(t *testing.T, b *Backend) {
		t.Helper()
		if o, err := b.store.load(volumes, volA); err != nil || (o.attachment != nil) != want {
			t.Errorf("%+v, %v", o, err)
		}
	}
}

// leave writes a file as an interrupted call would have left it.
func leave(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func operations() []crashCase {
	nothing := func(*testing.T, *Backend) {}
	return []crashCase{
		{"create", nothing, func(t *testing.T, b *Backend) error {
			t.Helper()
			_, err := b.Create(t.Context(), request("a", volume.MiB))
			return err
		}, func(t *testing.T, b *Backend) {
			t.Helper()
			if v, err := b.Get(t.Context(), volA); err != nil || v.Size != volume.MiB || v.Name != "a" {
				t.Errorf("%+v, %v", v, err)
			}
		}, []string{"volumes/" + volA}},
		{"clone", makeA, func(t *testing.T, b *Backend) error {
			t.Helper()
			_, err := b.CloneVolume(t.Context(), volume.CreateRequest{Name: "b", Size: 2 * volume.MiB, Source: volume.Source{VolumeID: volA}})
			return err
		}, hasContent(volumes, volB, 2*volume.MiB), []string{"volumes/" + volA, "volumes/" + volB}},
		{"snapshot", makeA, makeSnapshot, hasContent(snapshots, snapS, volume.MiB), []string{"volumes/" + volA, "snapshots/" + snapS}},
		{"restore", makeAAndSnapshot, func(t *testing.T, b *Backend) error {
			t.Helper()
			_, err := b.Restore(t.Context(), volume.CreateRequest{Name: "b", Size: volume.MiB, Source: volume.Source{SnapshotID: snapS}})
			return err
		}, hasContent(volumes, volB, volume.MiB), []string{"volumes/" + volA, "volumes/" + volB, "snapshots/" + snapS}},
		{"expand", makeA, func(t *testing.T, b *Backend) error {
			t.Helper()
			_, err := b.Expand(t.Context(), volA, 3*volume.MiB)
			return err
		}, hasContent(volumes, volA, 3*volume.MiB), []string{"volumes/" + volA}},
		{"attach", makeA, func(t *testing.T, b *Backend) error {
			t.Helper()
			_, err := b.Attach(t.Context(), volume.AttachRequest{ID: volA, Node: node, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}})
			return err
		}, attached(true), []string{"volumes/" + volA, "volumes/" + volA + "/" + attachFile}},
		{"detach", func(t *testing.T, b *Backend) {
			t.Helper()
			makeA(t, b)
			attach(t, b, volA)
			leave(t, filepath.Join(b.store.path(volumes, volA), attachFile+newSuffix))
		}, func(t *testing.T, b *Backend) error {
			t.Helper()
			return b.Detach(t.Context(), volA, node)
		}, attached(false), []string{"volumes/" + volA}},
		{"delete", makeA, func(t *testing.T, b *Backend) error {
			t.Helper()
			return b.Delete(t.Context(), volA)
		}, nothing, nil},
		{"delete over leftovers", func(t *testing.T, b *Backend) {
			t.Helper()
			makeA(t, b)
			if err := b.store.disk.mkdir(b.store.pending(volA)); err != nil {
				t.Fatal(err)
			}
			leave(t, filepath.Join(b.store.pending(volA), dataFile))
		}, func(t *testing.T, b *Backend) error {
			t.Helper()
			return b.Delete(t.Context(), volA)
		}, nothing, nil},
		{
			"delete snapshot", makeAAndSnapshot, func(t *testing.T, b *Backend) error {
				t.Helper()
				return b.DeleteSnapshot(t.Context(), snapS)
			}, hasContent(volumes, volA, volume.MiB),
			[]string{"volumes/" + volA},
		},
	}
}

// TestCrashAndRetry stops each operation before each of its steps, as a dying
// process would, and repeats it in a new one. The end is as if nothing had
// happened, with no file left over.
func TestCrashAndRetry(t *testing.T) {
	forEveryCrash(t, func(t *testing.T, b *Backend, op crashCase) {
		t.Helper()
		if err := op.run(t, b); err != nil {
			t.Fatalf("repeated: %v", err)
		}
		op.check(t, b)
		if files := tree(t, b); !slices.Equal(files, objectFiles(op.objects...)) {
			t.Errorf("left\n%s\nwant\n%s", strings.Join(files, "\n"), strings.Join(objectFiles(op.objects...), "\n"))
		}
	})
}

// TestCrashAndAbandon does not repeat the operation: after a restart every
// object is whole or does not exist, nothing waits in pending, and all can
// be deleted.
func TestCrashAndAbandon(t *testing.T) {
	forEveryCrash(t, func(t *testing.T, b *Backend, _ crashCase) {
		t.Helper()
		b, err := New(t.Context(), b.opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range tree(t, b) {
			if strings.HasPrefix(f, pendingDir) {
				t.Errorf("left %s", f)
			}
		}
		vols, _, err := b.ListVolumes(t.Context(), volume.Page{})
		if err != nil {
			t.Fatalf("a volume is damaged: %v", err)
		}
		snaps, _, err := b.ListSnapshots(t.Context(), volume.SnapshotFilter{}, volume.Page{})
		if err != nil {
			t.Fatalf("a snapshot is damaged: %v", err)
		}
		for _, v := range vols {
			err := b.Detach(t.Context(), v.ID, "")
			if err := errors.Join(err, b.Delete(t.Context(), v.ID)); err != nil || v.Size < volume.MiB || v.Name == "" {
				t.Errorf("%+v, %v", v, err)
			}
		}
		for _, s := range snaps {
			if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil || s.Size != volume.MiB || s.VolumeID != volA {
				t.Errorf("%+v, %v", s, err)
			}
		}
		if files := tree(t, b); len(files) != 0 {
			t.Errorf("left %v", files)
		}
	})
}

// TestCrashAndDelete deletes what the crashed operation was making, without a
// restart: CSI's way of giving up a creation.
func TestCrashAndDelete(t *testing.T) {
	forEveryCrash(t, func(t *testing.T, b *Backend, _ crashCase) {
		t.Helper()
		for _, id := range []string{volA, volB} {
			if err := errors.Join(b.Detach(t.Context(), id, ""), b.Delete(t.Context(), id)); err != nil {
				t.Error(err)
			}
		}
		if err := b.DeleteSnapshot(t.Context(), snapS); err != nil {
			t.Error(err)
		}
		if files := tree(t, b); len(files) != 0 {
			t.Errorf("left %v", files)
		}
	})
}

func forEveryCrash(t *testing.T, after func(*testing.T, *Backend, crashCase)) {
	t.Helper()
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			b := newBackend(t, nil)
			op.prepare(t, b)
			steps := crashAt(b, -1)
			if err := op.run(t, b); err != nil {
				t.Fatal(err)
			}
			if *steps < 2 {
				t.Fatalf("%d steps: the operation changes nothing", *steps)
			}
			for n := range *steps {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					b := newBackend(t, nil)
					op.prepare(t, b)
					crashAt(b, n)
					if err := op.run(t, b); !errors.Is(err, errCrash) {
						t.Fatalf("did not crash: %v", err)
					}
					after(t, reopened(b), op)
				})
			}
		})
	}
}

// A failure that is not a crash (disk full) cleans up after itself.
func TestFailureLeavesNothing(t *testing.T) {
	b := newBackend(t, nil)
	b.store.disk.before = func(step, _ string) error {
		if step == "sync" {
			return errCrash
		}
		return nil
	}
	_, err := b.Create(t.Context(), request("a", volume.MiB))
	if !errors.Is(err, errCrash) {
		t.Fatalf("got %v", err)
	}
	if files := tree(t, b); len(files) != 0 {
		t.Errorf("left %v", files)
	}
}

// New leaves alone what another process is making.
func TestSweepSparesTheLiving(t *testing.T) {
	b := newBackend(t, nil)
	if err := b.store.disk.mkdir(b.store.pending(volA)); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockDir(t.Context(), b.store.pending(volA))
	if err != nil {
		t.Fatal(err)
	}
	if failed := b.store.sweep(); len(failed) != 0 || len(tree(t, b)) != 1 {
		t.Errorf("removed under its maker: %v, %v", tree(t, b), failed)
	}
	unlock()
	if failed := b.store.sweep(); len(failed) != 0 || len(tree(t, b)) != 0 {
		t.Errorf("left %v, %v", tree(t, b), failed)
	}
}

// A deletion waits for whoever is at work under the same id in pending, and
// removes what is left there.
func TestDeleteClaimsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, nil)
		create(t, b, "a", volume.MiB)
		unlock, err := b.store.claim(t.Context(), b.store.pending(volA))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		wantKind(t, b.Delete(ctx, volA), volume.KindInProgress)
		if _, err := b.Get(t.Context(), volA); err != nil {
			t.Errorf("deleted nevertheless: %v", err)
		}
		if err := os.WriteFile(filepath.Join(b.store.pending(volA), dataFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		unlock()
		if err := b.Delete(t.Context(), volA); err != nil {
			t.Error(err)
		}
		if files := tree(t, b); len(files) != 0 {
			t.Errorf("left %v", files)
		}
	})
}

// On a filesystem without RENAME_NOREPLACE deletions work as well.
func TestDeleteWithoutRenameNew(t *testing.T) {
	b := newBackend(t, nil)
	b.store.disk.before = func(step, _ string) error {
		if step == "rename new" {
			return unix.EINVAL
		}
		return nil
	}
	create(t, b, "a", volume.MiB)
	if err := b.Delete(t.Context(), volA); err != nil {
		t.Error(err)
	}
	if files := tree(t, b); len(files) != 0 {
		t.Errorf("left %v", files)
	}
}

// The lock of a directory that was replaced since it was opened is worth
// nothing.
func TestLockOfAReplacedDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only locked
	if ok, err := lockOpen(f, path); !ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
	if err := errors.Join(os.Rename(path, path+".old"), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if ok, err := lockOpen(f, path); ok || err != nil {
		t.Errorf("%t, %v", ok, err)
	}
}

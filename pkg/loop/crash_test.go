package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

var errCrash = errors.New("the process died")

// crashAt makes every step from the n-th on fail, also those that clean up, as if the
// process had died before it; n < 0: no step fails. It returns the number of steps so far.
func crashAt(b *Backend, n int) (steps *int) {
	steps = new(int)
	b.store.ops.beforeStep = func(step, path string) error {
		if *steps++; n >= 0 && *steps > n {
			return fmt.Errorf("%s %s: %w", step, path, errCrash)
		}
		return nil
	}
	return steps
}

// crashCase is an operation that the crash tests stop before each of its steps.
type crashCase struct {
	name    string
	prepare func(t *testing.T, b *Backend)
	run     func(ctx context.Context, b *Backend) error
	check   func(t *testing.T, b *Backend) // checks the state after a success
	objects []string                       // the files after a success, as for wantFiles
}

// checkCopy returns a check by wantCopy.
func checkCopy(c volumedir.Collection, id string, size volume.Size) func(*testing.T, *Backend) {
	return func(t *testing.T, b *Backend) { t.Helper(); wantCopy(t, b, c, id, size) }
}

// checkAttached returns a check whether the volume "a" is attached.
func checkAttached(want bool) func(*testing.T, *Backend) {
	return func(t *testing.T, b *Backend) {
		t.Helper()
		if o, err := b.store.Load(volumedir.Volumes, volA); err != nil || (o.Attachment != nil) != want {
			t.Errorf("got attachment %+v, %v, want one: %t", o.Attachment, err, want)
		}
	}
}

// writeHalf writes a file as an interrupted call leaves it.
func writeHalf(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func nothing(*testing.T, *Backend) {}

func crashCases() []crashCase {
	fileA, fileB, fileS := "volumes/"+volA, "volumes/"+volB, "snapshots/"+snapS
	deleteA := func(ctx context.Context, b *Backend) error { return b.Delete(ctx, volA) }
	return []crashCase{
		{
			name: "create", prepare: nothing,
			run: func(ctx context.Context, b *Backend) error {
				_, err := b.Create(ctx, blankRequest("a", volume.MiB))
				return err
			},
			check: func(t *testing.T, b *Backend) {
				t.Helper()
				if v, err := b.Get(t.Context(), volA); err != nil || v.Size != volume.MiB || v.Name != "a" {
					t.Errorf("got %+v, %v, want the volume a of 1 MiB", v, err)
				}
			},
			objects: []string{fileA},
		}, {
			name: "clone", prepare: createA,
			run:     func(ctx context.Context, b *Backend) error { return cloneAToB(ctx, b, 2*volume.MiB) },
			check:   checkCopy(volumedir.Volumes, volB, 2*volume.MiB),
			objects: []string{fileA, fileB},
		}, {
			name: "snapshot", prepare: createA, run: snapshotA,
			check:   checkCopy(volumedir.Snapshots, snapS, volume.MiB),
			objects: []string{fileA, fileS},
		}, {
			name: "restore", prepare: createAAndSnapshot, run: restoreSToB,
			check:   checkCopy(volumedir.Volumes, volB, volume.MiB),
			objects: []string{fileA, fileB, fileS},
		}, {
			name: "expand", prepare: createA,
			run: func(ctx context.Context, b *Backend) error {
				_, err := b.Expand(ctx, volA, 3*volume.MiB)
				return err
			},
			check:   checkCopy(volumedir.Volumes, volA, 3*volume.MiB),
			objects: []string{fileA},
		}, {
			name: "attach", prepare: createA,
			run: func(ctx context.Context, b *Backend) error {
				_, err := b.Attach(ctx, attachRequest(volA))
				return err
			},
			check:   checkAttached(true),
			objects: []string{fileA, fileA + "/" + volumedir.AttachmentFile},
		}, {
			name: "detach",
			prepare: func(t *testing.T, b *Backend) {
				t.Helper()
				createA(t, b)
				attachVolume(t, b, volA)
				writeHalf(t, b.store.attachmentPath(volA)+tempSuffix)
			},
			run:     func(ctx context.Context, b *Backend) error { return b.Detach(ctx, volA, testNode) },
			check:   checkAttached(false),
			objects: []string{fileA},
		}, {
			name: "delete", prepare: createA, run: deleteA, check: nothing,
		}, {
			name: "delete over leftovers",
			prepare: func(t *testing.T, b *Backend) {
				t.Helper()
				createA(t, b)
				if err := b.store.ops.mkdir(b.store.PendingPath(volA)); err != nil {
					t.Fatal(err)
				}
				writeHalf(t, filepath.Join(b.store.PendingPath(volA), volumedir.DataFile))
			},
			run: deleteA, check: nothing,
		}, {
			name: "delete snapshot", prepare: createAAndSnapshot,
			run:     func(ctx context.Context, b *Backend) error { return b.DeleteSnapshot(ctx, snapS) },
			check:   checkCopy(volumedir.Volumes, volA, volume.MiB),
			objects: []string{fileA},
		},
	}
}

// forEveryCrash stops each operation before each of its steps and then calls after with
// the backend of a new process, without what New removes.
func forEveryCrash(t *testing.T, after func(*testing.T, *Backend, crashCase)) {
	t.Helper()
	for _, c := range crashCases() {
		t.Run(c.name, func(t *testing.T) {
			b := openBackend(t)
			c.prepare(t, b)
			steps := crashAt(b, -1)
			if err := c.run(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if *steps < 2 {
				t.Fatalf("got %d steps, want at least 2: the operation changes nothing", *steps)
			}
			for n := range *steps {
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					b := openBackend(t)
					c.prepare(t, b)
					crashAt(b, n)
					if err := c.run(t.Context(), b); !errors.Is(err, errCrash) {
						t.Fatalf("got %v, want a crash", err)
					}
					after(t, newBackend(b.opts), c)
				})
			}
		})
	}
}

// The retry of a crashed operation ends as if the crash had not happened, and leaves no
// other file.
func TestRetryAfterCrashSucceeds(t *testing.T) {
	forEveryCrash(t, func(t *testing.T, b *Backend, c crashCase) {
		t.Helper()
		if err := c.run(t.Context(), b); err != nil {
			t.Fatalf("the retry failed: %v", err)
		}
		c.check(t, b)
		wantFiles(t, b, c.objects...)
	})
}

// After a restart without a retry every object is complete or does not exist, pending is
// empty, and all objects can be deleted.
func TestRestartAfterCrashLeavesCompleteObjects(t *testing.T) {
	forEveryCrash(t, func(t *testing.T, b *Backend, _ crashCase) {
		t.Helper()
		b, err := New(t.Context(), b.opts)
		if err != nil {
			t.Fatal(err)
		}
		if entries, err := os.ReadDir(b.store.PendingPath("")); err != nil || len(entries) != 0 {
			t.Errorf("pending: got %v, %v, want it empty", entries, err)
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
				t.Errorf("delete %+v: got %v, want success, a name and at least 1 MiB", v, err)
			}
		}
		for _, s := range snaps {
			if err := b.DeleteSnapshot(t.Context(), s.ID); err != nil || s.Size != volume.MiB || s.VolumeID != volA {
				t.Errorf("delete %+v: got %v, want success, 1 MiB and volume %s", s, err, volA)
			}
		}
		wantFiles(t, b)
	})
}

// CSI abandons a creation by deleting its object: that works without a restart.
func TestDeleteAfterCrashLeavesNothing(t *testing.T) {
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
		wantFiles(t, b)
	})
}

// A creation that fails without a crash (disk full) removes its files.
func TestFailedCreateLeavesNothing(t *testing.T) {
	b := openBackend(t)
	b.store.ops.beforeStep = func(step, _ string) error {
		if step == "sync" {
			return errCrash
		}
		return nil
	}
	_, err := b.Create(t.Context(), blankRequest("a", volume.MiB))
	if !errors.Is(err, errCrash) {
		t.Fatalf("got %v, want %v", err, errCrash)
	}
	wantFiles(t, b)
}

// New does not remove what another process is creating.
func TestNewKeepsLockedPendingDirectories(t *testing.T) {
	b := openBackend(t)
	unlock, err := b.store.lockPending(t.Context(), volA)
	if err != nil {
		t.Fatal(err)
	}
	discard := func(want int) {
		t.Helper()
		if failed := b.store.discardAllPending(); len(failed) != 0 {
			t.Errorf("got errors %v, want none", failed)
		}
		if left, err := os.ReadDir(b.store.PendingPath("")); err != nil || len(left) != want {
			t.Errorf("pending: got %v, %v, want %d directories", left, err, want)
		}
	}
	discard(1)
	unlock()
	discard(0)
}

// A deletion waits for the call that holds the object's directory in pending, and then
// removes that directory's files.
func TestDeleteWaitsForPendingDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openBackend(t)
		createVolume(t, b, "a", volume.MiB)
		unlock, err := b.store.lockPending(t.Context(), volA)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		volumetest.WantKind(t, b.Delete(ctx, volA), volume.KindInProgress)
		if _, err := b.Get(t.Context(), volA); err != nil {
			t.Errorf("the volume is gone before the directory was free: %v", err)
		}
		if err := os.WriteFile(filepath.Join(b.store.PendingPath(volA), volumedir.DataFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		unlock()
		if err := b.Delete(t.Context(), volA); err != nil {
			t.Error(err)
		}
		wantFiles(t, b)
	})
}

func TestDeleteWorksWithoutRenameNoReplace(t *testing.T) {
	b := openBackend(t)
	b.store.ops.beforeStep = func(step, _ string) error {
		if step == "rename no-replace" {
			return unix.EINVAL
		}
		return nil
	}
	createVolume(t, b, "a", volume.MiB)
	if err := b.Delete(t.Context(), volA); err != nil {
		t.Error(err)
	}
	wantFiles(t, b)
}

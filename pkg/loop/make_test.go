package loop

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// slow is a backend whose copies wait, as those of large volumes do.
type slow struct {
	*Backend
	copies int        // begun; read it when none is under way
	goOn   chan error // what is sent becomes of the copy that waits
}

func newSlow(t *testing.T) *slow {
	t.Helper()
	s := &slow{Backend: newBackend(t, nil), goOn: make(chan error)}
	s.loops.kernel = plainCopy{linux{}}
	makeAAndSnapshot(t, s.Backend)
	s.store.disk.before = func(step, _ string) error {
		if step == "copy" {
			s.copies++
			select {
			case err := <-s.goOn:
				return err
			case <-time.After(10 * time.Second):
				return errors.New("a copy that nobody expected")
			}
		}
		return nil
	}
	return s
}

// copying are the calls that copy, and the files of what they make.
func (s *slow) copying() map[string]struct {
	call   func(context.Context) error
	object string
	source string // of the volume or snapshot
} {
	type operation = struct {
		call   func(context.Context) error
		object string
		source string
	}
	return map[string]operation{
		"clone": {func(ctx context.Context) error {
			_, err := s.CloneVolume(ctx, volume.CreateRequest{Name: "b", Size: volume.MiB, Source: volume.Source{VolumeID: volA}})
			return err
		}, "volumes/" + volB, volA},
		"restore": {func(ctx context.Context) error {
			_, err := s.Restore(ctx, volume.CreateRequest{Name: "b", Size: volume.MiB, Source: volume.Source{SnapshotID: snapS}})
			return err
		}, "volumes/" + volB, snapS},
		"snapshot": {func(ctx context.Context) error {
			_, err := s.CreateSnapshot(ctx, volume.SnapshotRequest{Name: "b", VolumeID: volA})
			return err
		}, "snapshots/" + snapshots.id("b"), volA},
	}
}

// briefly runs a call with less time than it needs.
func briefly(t *testing.T, call func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	return call(ctx)
}

// A copy goes on when its call has run out of time, the retries wait for it,
// and so does whatever would take its source away.
func TestCopyOutlivesItsCall(t *testing.T) {
	for name := range new(slow).copying() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSlow(t)
				op := s.copying()[name]
				wantKind(t, briefly(t, op.call), volume.KindDeadline, "still under way")
				for range 3 {
					wantKind(t, briefly(t, op.call), volume.KindInProgress)
				}
				for _, call := range []func(context.Context) error{
					func(ctx context.Context) error {
						if strings.HasPrefix(op.source, snapshots.prefix()) {
							return s.DeleteSnapshot(ctx, op.source)
						}
						_, err := s.Expand(ctx, op.source, volume.GiB)
						wantKind(t, err, volume.KindInProgress)
						return s.Delete(ctx, op.source)
					},
					func(ctx context.Context) error { // what is being made
						_, id, _ := strings.Cut(op.object, "/")
						return errors.Join(s.Delete(ctx, id), s.DeleteSnapshot(ctx, id))
					},
				} {
					wantKind(t, briefly(t, call), volume.KindInProgress)
				}
				if failed := s.store.sweep(); len(failed) != 0 { // another process starts
					t.Error(failed)
				}
				s.goOn <- nil
				if err := op.call(t.Context()); err != nil {
					t.Error(err)
				}
				if s.copies != 1 {
					t.Errorf("copied %d times", s.copies)
				}
				want := objectFiles("volumes/"+volA, "snapshots/"+snapS, op.object)
				if files := tree(t, s.Backend); !slices.Equal(files, want) {
					t.Errorf("left\n%s", strings.Join(files, "\n"))
				}
				c, id, _ := strings.Cut(op.object, "/")
				hasContent(class(c), id, volume.MiB)(t, s.Backend)
				if err := errors.Join(s.Delete(t.Context(), volA), s.DeleteSnapshot(t.Context(), snapS)); err != nil {
					t.Errorf("a lock is still held: %v", err)
				}
			})
		})
	}
}

// What ends a copy whose call has gone is told to the next call; the one
// after that tries again.
func TestFailureOfACopyThatOutlivesItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t)
		op := s.copying()["clone"]
		wantKind(t, briefly(t, op.call), volume.KindDeadline)
		s.goOn <- unix.ENOSPC
		wantKind(t, op.call(t.Context()), volume.KindOutOfRange, "no room", "earlier attempt")
		if files := tree(t, s.Backend); !slices.Equal(files, objectFiles("volumes/"+volA, "snapshots/"+snapS)) {
			t.Errorf("left %v", files)
		}
		go func() { s.goOn <- nil }()
		if err := op.call(t.Context()); err != nil || s.copies != 2 {
			t.Errorf("%d copies, %v", s.copies, err)
		}

		// A deletion gives the creation up, and its failure with it.
		if err := s.Delete(t.Context(), volB); err != nil {
			t.Fatal(err)
		}
		wantKind(t, briefly(t, op.call), volume.KindDeadline)
		s.goOn <- unix.ENOSPC
		if err := s.Delete(t.Context(), volB); err != nil {
			t.Fatal(err)
		}
		if left := s.late.take(volB); left != nil {
			t.Errorf("remembers %v", left)
		}
	})
}

// No copy goes on for ever.
func TestCopyHasALimit(t *testing.T) {
	s := newSlow(t)
	s.makeLimit = time.Nanosecond
	go func() { s.goOn <- nil }()
	op := s.copying()["clone"]
	if err := op.call(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if files := tree(t, s.Backend); !slices.Equal(files, objectFiles("volumes/"+volA, "snapshots/"+snapS)) {
		t.Errorf("left %v", files)
	}
}

// Copies that outlive their calls are known until they end, so that a plugin
// that is stopped can wait for them.
func TestCopiesThatOutliveTheirCallAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlow(t)
		s.opts.Detached = new(operation.Tracker)
		for name, op := range s.copying() {
			wantKind(t, briefly(t, op.call), volume.KindDeadline)
			_, id, _ := strings.Cut(op.object, "/")
			if known := s.opts.Detached.List(); len(known) != 1 || known[0].ID != id || !strings.HasPrefix(known[0].What, "making the") {
				t.Errorf("%s: known %+v, want the making of %s", name, known, id)
			}
			s.goOn <- nil
			if left := s.opts.Detached.Wait(t.Context()); left != nil {
				t.Errorf("%s: left %+v", name, left)
			}
			if err := errors.Join(op.call(t.Context()), s.Delete(t.Context(), id), s.DeleteSnapshot(t.Context(), id)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

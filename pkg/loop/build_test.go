package loop

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// slowBackend is a backend whose copies wait, as those of large volumes do.
type slowBackend struct {
	*Backend
	copies  int        // started so far; read it while no copy runs
	results chan error // each value ends one waiting copy; nil: the copy continues
}

func openSlowBackend(t *testing.T) *slowBackend {
	t.Helper()
	s := &slowBackend{Backend: openBackend(t), results: make(chan error)}
	s.shareBlocks = noReflink
	createAAndSnapshot(t, s.Backend)
	s.store.ops.beforeStep = func(step, _ string) error {
		if step != "copy" {
			return nil
		}
		s.copies++
		select {
		case err := <-s.results:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("an unexpected copy")
		}
	}
	return s
}

// copyCall is a call that copies a volume or snapshot.
type copyCall struct {
	call   func(context.Context, *Backend) error
	object string // what it creates, as for wantFiles
	source string // id
}

func copyCalls() map[string]copyCall {
	return map[string]copyCall{
		"clone": {
			func(ctx context.Context, b *Backend) error { return cloneAToB(ctx, b, volume.MiB) },
			"volumes/" + volB, volA,
		},
		"restore": {restoreSToB, "volumes/" + volB, snapS},
		"snapshot": {func(ctx context.Context, b *Backend) error {
			_, err := b.CreateSnapshot(ctx, volume.SnapshotRequest{Name: "b", VolumeID: volA})
			return err
		}, "snapshots/" + volumedir.Snapshots.ID("b"), volA},
	}
}

// callBriefly runs a call that has less time than it needs.
func (s *slowBackend) callBriefly(t *testing.T, call func(context.Context, *Backend) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	return call(ctx, s.Backend)
}

// A copy continues after its call has run out of time. Retries wait for it, and so do
// calls that change or delete its source.
func TestCopyContinuesAfterItsCall(t *testing.T) {
	for name, c := range copyCalls() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := openSlowBackend(t)
				volumetest.WantKind(t, s.callBriefly(t, c.call), volume.KindDeadline, "still under way")
				for range 3 {
					volumetest.WantKind(t, s.callBriefly(t, c.call), volume.KindInProgress)
				}
				for _, call := range []func(context.Context, *Backend) error{
					func(ctx context.Context, b *Backend) error {
						if volumedir.Snapshots.IsID(c.source) {
							return b.DeleteSnapshot(ctx, c.source)
						}
						_, err := b.Expand(ctx, c.source, volume.GiB)
						volumetest.WantKind(t, err, volume.KindInProgress)
						return b.Delete(ctx, c.source)
					},
					func(ctx context.Context, b *Backend) error { // the object that is being created
						_, id, _ := strings.Cut(c.object, "/")
						return errors.Join(b.Delete(ctx, id), b.DeleteSnapshot(ctx, id))
					},
				} {
					volumetest.WantKind(t, s.callBriefly(t, call), volume.KindInProgress)
				}
				if failed := s.store.discardAllPending(); len(failed) != 0 { // another process starts
					t.Error(failed)
				}
				s.results <- nil
				if err := c.call(t.Context(), s.Backend); err != nil {
					t.Error(err)
				}
				if s.copies != 1 {
					t.Errorf("got %d copies, want 1", s.copies)
				}
				wantFiles(t, s.Backend, "volumes/"+volA, "snapshots/"+snapS, c.object)
				collection, id, _ := strings.Cut(c.object, "/")
				wantCopy(t, s.Backend, volumedir.Collection(collection), id, volume.MiB)
				if err := errors.Join(s.Delete(t.Context(), volA), s.DeleteSnapshot(t.Context(), snapS)); err != nil {
					t.Errorf("a lock is still held: %v", err)
				}
			})
		})
	}
}

// The next call returns the error of a copy that failed after its call; the call after
// that tries again.
func TestNextCallReturnsErrorOfDetachedCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openSlowBackend(t)
		clone := copyCalls()["clone"].call
		volumetest.WantKind(t, s.callBriefly(t, clone), volume.KindDeadline)
		s.results <- unix.ENOSPC
		volumetest.WantKind(t, clone(t.Context(), s.Backend), volume.KindOutOfRange, "no space", "earlier attempt")
		wantFiles(t, s.Backend, "volumes/"+volA, "snapshots/"+snapS)
		go func() { s.results <- nil }()
		if err := clone(t.Context(), s.Backend); err != nil || s.copies != 2 {
			t.Errorf("got %d copies, %v, want 2 and success", s.copies, err)
		}

		// A deletion abandons the creation, and with it the creation's error.
		if err := s.Delete(t.Context(), volB); err != nil {
			t.Fatal(err)
		}
		volumetest.WantKind(t, s.callBriefly(t, clone), volume.KindDeadline)
		s.results <- unix.ENOSPC
		if err := s.Delete(t.Context(), volB); err != nil {
			t.Fatal(err)
		}
		if err := s.takeFailure(volB); err != nil {
			t.Errorf("after the deletion: got the failure %v, want none", err)
		}
	})
}

func TestCopyEndsAfterBuildTimeout(t *testing.T) {
	s := openSlowBackend(t)
	s.buildTimeout = time.Nanosecond
	go func() { s.results <- nil }()
	if err := cloneAToB(t.Context(), s.Backend, volume.MiB); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
	wantFiles(t, s.Backend, "volumes/"+volA, "snapshots/"+snapS)
}

// The tracker lists detached copies until they end, so that a plugin that stops can wait
// for them.
func TestTrackerListsDetachedCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openSlowBackend(t)
		s.opts.Detached = new(operation.Tracker)
		for name, c := range copyCalls() {
			volumetest.WantKind(t, s.callBriefly(t, c.call), volume.KindDeadline)
			_, id, _ := strings.Cut(c.object, "/")
			if work := s.opts.Detached.List(); len(work) != 1 || work[0].ID != id ||
				!strings.HasPrefix(work[0].What, "creating the") {
				t.Errorf("%s: got detached work %+v, want the creation of %s", name, work, id)
			}
			s.results <- nil
			if left := s.opts.Detached.Wait(t.Context()); left != nil {
				t.Errorf("%s: after the wait: got detached work %+v, want none", name, left)
			}
			err := errors.Join(c.call(t.Context(), s.Backend), s.Delete(t.Context(), id), s.DeleteSnapshot(t.Context(), id))
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

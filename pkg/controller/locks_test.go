package controller

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakebackend"
)

// slowCopyBackend is a backend whose copies end when finish is closed. If accepts is set, it
// accepts them at once.
type slowCopyBackend struct {
	*fakebackend.Backend
	accepts bool
	finish  chan struct{}
}

func (b slowCopyBackend) work(accepted func()) {
	if b.accepts {
		accepted()
		accepted() // a backend may call it more than once
	}
	<-b.finish
}

func (b slowCopyBackend) CloneVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	b.work(req.NotifyAccepted)
	return b.Backend.CloneVolume(ctx, req)
}

func (b slowCopyBackend) Restore(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	b.work(req.NotifyAccepted)
	return b.Backend.Restore(ctx, req)
}

func (b slowCopyBackend) CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error) {
	b.work(req.NotifyAccepted)
	return b.Backend.CreateSnapshot(ctx, req)
}

// Once the backend has accepted the copy, only the lock of the source is released: a second
// request of the same name still waits.
func TestAcceptedCopyReleasesLockOfSource(t *testing.T) {
	t.Parallel()
	for _, accepts := range []bool{true, false} {
		for name, copyOf := range map[string]func(context.Context, *Server, string, string) error{
			"clone": func(ctx context.Context, s *Server, source, _ string) error {
				req := createRequest("copy", volume.GiB)
				req.VolumeContentSource = fromVolume(source)
				_, err := s.CreateVolume(ctx, req)
				return err
			},
			"restore": func(ctx context.Context, s *Server, _, snapshot string) error {
				req := createRequest("copy", volume.GiB)
				req.VolumeContentSource = fromSnapshot(snapshot)
				_, err := s.CreateVolume(ctx, req)
				return err
			},
			"snapshot": func(ctx context.Context, s *Server, source, _ string) error {
				_, err := s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "copy", SourceVolumeId: source})
				return err
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				fake := fakebackend.New()
				backend := slowCopyBackend{fake, accepts, make(chan struct{})}
				s := New(backend, Options{})
				source := createVolume(t, s, "source", volume.GiB)
				snapshot, err := fake.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: source})
				if err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- copyOf(t.Context(), s, source, snapshot.ID) }()
				synctest.Wait()

				isLocked := func(key string) bool {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					unlock, err := s.locks.Lock(ctx, key)
					if err == nil {
						unlock()
					}
					return err != nil
				}
				sourceKey, copyKey := source, nameKey("copy")
				switch name {
				case "restore":
					sourceKey = snapshotKey(snapshot.ID)
				case "snapshot":
					copyKey = snapshotNameKey("copy")
				}
				if isLocked(sourceKey) == accepts {
					t.Errorf("%s, accepted %t: got source locked %t, want %t", name, accepts, accepts, !accepts)
				}
				if !isLocked(copyKey) {
					t.Errorf("%s: the name is not locked during the copy", name)
				}
				close(backend.finish)
				if err := <-done; err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if isLocked(sourceKey) || isLocked(copyKey) {
					t.Errorf("%s: a lock is still held after the copy", name)
				}
			})
		}
	}
}

// The lock of the source may have a new holder when the copy ends; the end must not release
// it again.
func TestEndOfCopyKeepsLockOfNextHolder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		backend := slowCopyBackend{fakebackend.New(), true, make(chan struct{})}
		s := New(backend, Options{})
		source := createVolume(t, s, "source", volume.GiB)
		done := make(chan error, 1)
		go func() {
			req := createRequest("copy", volume.GiB)
			req.VolumeContentSource = fromVolume(source)
			_, err := s.CreateVolume(t.Context(), req)
			done <- err
		}()
		synctest.Wait()
		unlock, err := s.locks.Lock(t.Context(), source)
		if err != nil {
			t.Fatal(err)
		}
		close(backend.finish)
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.locks.Lock(ctx, source); err == nil {
			t.Error("the end of the copy released the lock of the next holder")
		}
		unlock()
	})
}

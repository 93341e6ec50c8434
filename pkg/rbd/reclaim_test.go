package rbd

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/must"
)

// createWithZeros creates a volume of 1 GiB with 4 MiB of data, and 4 MiB of zeros after them.
func (r *rig) createWithZeros(t *testing.T, change func(*volume.CreateRequest)) volume.Volume {
	t.Helper()
	req := request("pvc-1")
	if change != nil {
		change(&req)
	}
	v := r.create(t, req)
	r.server.Write("volumes", "", "csi-vol-pvc-1", 0, 64, 7)
	r.server.Write("volumes", "", "csi-vol-pvc-1", 64, 64, fakeceph.Zeros)
	return v
}

func TestReclaimSpaceDeallocatesZeros(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.createWithZeros(t, nil)
	want := volume.Reclaimed{Before: 8 * volume.MiB, After: 4 * volume.MiB}
	if got, err := r.ReclaimSpace(t.Context(), v.ID); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if n := len(r.server.Content("volumes", "", "csi-vol-pvc-1")); n != 64 {
		t.Errorf("%d blocks of data are left, want 64", n)
	}
	want.Before = want.After
	if got, err := r.ReclaimSpace(t.Context(), v.ID); err != nil || got != want {
		t.Errorf("again: got %+v, %v; want %+v", got, err, want)
	}
}

func TestReclaimSpaceLeavesAVolumeInUseAlone(t *testing.T) {
	t.Parallel()
	for name, use := range map[string]func(t *testing.T, r *rig, id string){
		"mapped": func(_ *testing.T, r *rig, _ string) {
			r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
		},
		"attached": func(t *testing.T, r *rig, id string) {
			t.Helper()
			_, err := r.Attach(t.Context(), volume.AttachRequest{
				VolumeID: id, Node: "node-1", Access: volume.Access{Mode: volume.AccessSingleNodeWriter},
			})
			if err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			v := r.createWithZeros(t, nil)
			use(t, r, v.ID)
			r.server.ResetCalls()
			if got, err := r.ReclaimSpace(t.Context(), v.ID); err != nil || got != (volume.Reclaimed{IsInUse: true}) {
				t.Errorf("got %+v, %v; want that it is in use", got, err)
			}
			if calls := r.server.Calls(); calls["Image.Sparsify"]+calls["Image.Usage"] != 0 {
				t.Errorf("got the calls %v", calls)
			}
		})
	}
}

func TestReclaimSpaceRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	encrypted := r.createWithZeros(t, func(req *volume.CreateRequest) { req.Encrypted = true })
	_, err := r.ReclaimSpace(t.Context(), encrypted.ID)
	volumetest.WantKind(t, err, volume.KindUnsupported, "is encrypted")
	r = newRig(t)
	separate := r.createWithZeros(t, func(req *volume.CreateRequest) { req.Parameters["dataPool"] = "other" })
	_, err = r.ReclaimSpace(t.Context(), separate.ID)
	volumetest.WantKind(t, err, volume.KindUnsupported, "data pool other")
	_, err = r.ReclaimSpace(t.Context(), "a/volumes/missing")
	volumetest.WantKind(t, err, volume.KindNotFound)
	_, err = r.ReclaimSpace(t.Context(), "a/volumes/csi-vol-pvc-1@snap")
	volumetest.WantKind(t, err, volume.KindUnsupported, "snapshot")
	if n := r.server.Calls()["Image.Sparsify"]; n != 0 {
		t.Errorf("%d calls of Sparsify", n)
	}
}

// While an object is deallocated, another operation begins; it must not wait for the rest.
func TestReclaimSpaceGivesWay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.createWithZeros(t, nil)
	proceed, entered := make(chan struct{}), make(chan struct{})
	r.server.Inject(fakeceph.Fault{Call: "Image.Sparsify", Nth: 3, IsLast: true, Wait: proceed, Entered: entered})
	reclaimed, expanded := make(chan error, 1), make(chan error, 1)
	go func() { _, err := r.ReclaimSpace(t.Context(), v.ID); reclaimed <- err }()
	<-entered
	go func() { _, err := r.Expand(t.Context(), v.ID, 2*volume.GiB); expanded <- err }()
	for !r.locks.HasWaiters(v.ID) {
		if err := operation.Sleep(t.Context(), time.Millisecond); err != nil {
			t.Fatal("the expansion does not wait")
		}
	}
	close(proceed)
	volumetest.WantKind(t, <-reclaimed, volume.KindInProgress, "in part only", "another operation")
	if err := <-expanded; err != nil {
		t.Error(err)
	}
	if n := r.server.Calls()["Image.Sparsify"]; n != 3 {
		t.Errorf("%d objects were deallocated, want 3 of 256", n)
	}
}

func TestReclaimSpaceEndsWithItsCall(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.createWithZeros(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r.server.Inject(fakeceph.Fault{Call: "Image.Sparsify", Nth: 5, IsLast: true, Do: cancel})
	_, err := r.ReclaimSpace(ctx, v.ID)
	volumetest.WantKind(t, err, volume.KindCanceled)
	// The lock is free once the work has ended.
	if _, err := r.Expand(t.Context(), v.ID, 2*volume.GiB); err != nil {
		t.Error(err)
	}
	if n := r.server.Calls()["Image.Sparsify"]; n != 5 {
		t.Errorf("%d objects were deallocated, want 5 of 256", n)
	}
}

// Another controller attaches the volume meanwhile, or a person maps it: the node must not wait.
func TestReclaimSpaceEndsWhenANodeMapsTheImage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.createWithZeros(t, nil)
	isMapped := false
	// With 20 ms for each, the 256 objects take longer than useInterval.
	r.server.Inject(fakeceph.Fault{Call: "Image.Sparsify", Do: func() {
		if !isMapped {
			r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
			isMapped = true
		}
		_ = operation.Sleep(t.Context(), 20*time.Millisecond)
	}})
	_, err := r.ReclaimSpace(t.Context(), v.ID)
	volumetest.WantKind(t, err, volume.KindInProgress, "in part only")
}

func TestReclaimSpaceReportsErrors(t *testing.T) {
	t.Parallel()
	for errno, kind := range map[unix.Errno]volume.Kind{
		unix.EROFS: volume.KindInProgress, unix.ETIMEDOUT: volume.KindUnavailable, unix.ENOMEM: volume.KindInternal,
	} {
		r := newRig(t)
		v := r.createWithZeros(t, nil)
		r.server.Inject(fakeceph.Fault{Call: "Image.Sparsify", Nth: 2, Errno: errno})
		_, err := r.ReclaimSpace(t.Context(), v.ID)
		volumetest.WantKind(t, err, kind)
	}
}

// A schedule reclaims the space of many volumes at the same time. Other calls do not wait for them.
func TestReclaimSpaceLeavesSlotsForOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	hang := make(chan struct{})
	var all sync.WaitGroup
	var ids []string
	for n := range maxPoolTasks + 1 {
		v := r.create(t, request(fmt.Sprintf("pvc-%d", n)))
		ids = append(ids, v.ID)
	}
	r.server.Inject(fakeceph.Fault{Call: "Image.Usage", Wait: hang})
	for _, id := range ids[:maxPoolTasks] {
		all.Go(func() { _, _ = r.ReclaimSpace(t.Context(), id) })
	}
	for r.server.Calls()["Image.Usage"] < maxLongTasks {
		must.Succeed(t, operation.Sleep(t.Context(), time.Millisecond))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := r.Attach(ctx, volume.AttachRequest{
		VolumeID: ids[maxPoolTasks], Node: "node-1", Access: volume.Access{Mode: volume.AccessSingleNodeWriter},
	})
	if err != nil {
		t.Error(err)
	}
	if n := r.server.Calls()["Image.Usage"]; n != maxLongTasks {
		t.Errorf("%d tasks run, want %d", n, maxLongTasks)
	}
	close(hang)
	all.Wait()
}

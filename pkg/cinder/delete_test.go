package cinder

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/copies"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestDelete(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for _, state := range []string{state.Available, state.Error, state.ErrorExtending, state.ErrorRestoring} {
		id := r.add(fakecloud.Volume{Status: state})
		for range 2 { // the second time it is gone already
			if err := r.Delete(t.Context(), id); err != nil {
				t.Errorf("%s: %v", state, err)
			}
		}
		if _, there := r.cloud.Volume(id); there {
			t.Errorf("%s: still there", state)
		}
	}
	for _, id := range []string{"no-such-volume", "../servers", "0"} {
		if err := r.Delete(t.Context(), id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// cinder-csi-plugin answers when Cinder has accepted the deletion.
func TestDeleteIsNoSuccessBeforeTheVolumeIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.DeleteVolume, 2500*time.Millisecond)
	id := r.add(fakecloud.Volume{})
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	wantKind(t, r.Delete(short, id), volume.KindDeadline, id, "deleting")
	if err := r.Delete(t.Context(), id); err != nil { // joins
		t.Error(err)
	}
	if _, there := r.cloud.Volume(id); there {
		t.Error("still there")
	}
	r.wantCalls(t, fakecloud.DeleteVolume, 1)
}

func TestDeleteRefusesVolumesInUse(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.inUse(t, 1)
	wantKind(t, r.Delete(t.Context(), id), volume.KindPrecondition, id, server, "pods")
	wantKind(t, r.Delete(t.Context(), r.add(fakecloud.Volume{Status: state.InUse})), volume.KindPrecondition, "attachment list")
	r.wantCalls(t, fakecloud.DeleteVolume, 0)
}

// error_deleting leaks a volume when the deletion is told as done before.
func TestFailedDeletionNamesTheRemedy(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteVolume}, fakecloud.Fails())
	id := r.add(fakecloud.Volume{})
	for range 2 {
		wantKind(t, r.Delete(t.Context(), id), volume.KindInternal, id, "error_deleting", "openstack volume delete --force "+id)
	}
	r.wantCalls(t, fakecloud.DeleteVolume, 1)
}

func TestDeleteWaitsForOtherWork(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for _, status := range []string{"creating", "extending", "detaching", "backing-up"} {
		id := r.add(fakecloud.Volume{Status: status})
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		wantKind(t, r.Delete(short, id), volume.KindInProgress, id, status)
		cancel()
		timer := time.AfterFunc(50*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.Available) })
		if err := r.Delete(t.Context(), id); err != nil {
			t.Errorf("%s: %v", status, err)
		}
		timer.Stop()
	}
}

// Ceph, for one, has to keep a volume that was cloned: Cinder accepts the
// deletion and takes it back.
func TestDeletionThatIsTakenBackIsNoSuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.DeleteVolume, time.Hour)
	id := r.add(fakecloud.Volume{})
	r.afterNext(t, fakecloud.DeleteVolume, func() { r.cloud.SetVolumeStatus(id, state.Available) })
	wantKind(t, r.Delete(t.Context(), id), volume.KindPrecondition, id, "took it back", "available")

	// One reading can be from before the deletion.
	late := r.add(fakecloud.Volume{})
	r.afterNext(t, fakecloud.DeleteVolume, func() {
		r.cloud.SetVolumeStatus(late, state.Available)
		eventually(t, 400*time.Millisecond, func() { r.cloud.RemoveVolume(late) })
	})
	if err := r.Delete(t.Context(), late); err != nil {
		t.Error(err)
	}
}

func TestDeleteThroughFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"cut off": fakecloud.CutOff(), "lost": fakecloud.LostReply(), "500": fakecloud.Status(http.StatusInternalServerError, ""),
		"token": fakecloud.TokenExpires(), "half": fakecloud.Truncated(), "a page": fakecloud.WrongContentType(),
		"throttled": fakecloud.Throttled(http.StatusTooManyRequests, 0), "409": fakecloud.Status(http.StatusConflict, ""),
	} {
		for _, call := range []fakecloud.Call{fakecloud.GetVolume, fakecloud.DeleteVolume} {
			t.Run(name+" in "+string(call), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, fakecloud.Options{})
				id := r.add(fakecloud.Volume{})
				r.cloud.On(fakecloud.Match{Call: call}, fault)
				err := r.Delete(t.Context(), id)
				if err != nil {
					if kind := volume.KindOf(err); kind != volume.KindUnavailable && kind != volume.KindInProgress {
						t.Fatalf("a fault that passes is told as %v (%s)", err, kind)
					}
					err = r.Delete(t.Context(), id)
				}
				if _, there := r.cloud.Volume(id); err != nil || there {
					t.Errorf("%v, still there: %t", err, there)
				}
			})
		}
	}
}

func TestManyDeletionsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.DeleteVolume, 100*time.Millisecond)
	var wg sync.WaitGroup
	for range 50 {
		id := r.add(fakecloud.Volume{})
		wg.Go(func() {
			if err := r.Delete(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left := r.cloud.Volumes(); len(left) != 0 {
		t.Errorf("%d volumes are left", len(left))
	}
}

// What is remembered of a volume goes with it, also if somebody else deleted it.
func TestDeleteForgetsTheVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	here, gone := r.add(fakecloud.Volume{}), "11111111-2222-4333-8444-555555555555"
	for _, id := range []string{here, gone} {
		r.copies.Add(id, here, copies.Volume)
		r.notified[id] = volume.GiB
		if err := r.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if copies := len(r.copies.Of(here)) + len(r.copies.Of(gone)); copies+len(r.notified) != 0 {
		t.Errorf("the backend still knows %d copies and %v, want nothing", copies, r.notified)
	}
}

package cinder

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/copies"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestDelete(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for _, state := range []string{state.Available, state.Error, state.ErrorExtending, state.ErrorRestoring} {
		id := r.cloud.Add(fakecloud.Volume{Status: state})
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
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.DeleteVolume, 2500*time.Millisecond)
		id := r.cloud.Add(fakecloud.Volume{})
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cindertest.CheckKind(t, r.Delete(short, id), volume.KindDeadline, id, "deleting")
		if err := r.Delete(t.Context(), id); err != nil { // joins
			t.Error(err)
		}
		if _, there := r.cloud.Volume(id); there {
			t.Error("still there")
		}
		r.cloud.CheckCalls(t, fakecloud.DeleteVolume, 1)
	})
}

func TestDeleteRefusesVolumesInUse(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, server := r.inUse(t, 1)
	cindertest.CheckKind(t, r.Delete(t.Context(), id), volume.KindPrecondition, id, server, "pods")
	cindertest.CheckKind(
		t, r.Delete(t.Context(), r.cloud.Add(fakecloud.Volume{Status: state.InUse})), volume.KindPrecondition,
		"attachment list",
	)
	r.cloud.CheckCalls(t, fakecloud.DeleteVolume, 0)
}

// If Delete succeeded early, a volume in error_deleting would be leaked.
func TestFailedDeletionNamesTheRemedy(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.cloud.OnCall(fakecloud.DeleteVolume, fakecloud.Fails())
	id := r.cloud.Add(fakecloud.Volume{})
	for range 2 {
		cindertest.CheckKind(
			t, r.Delete(t.Context(), id), volume.KindInternal, id, "error_deleting", "openstack volume delete --force "+id,
		)
	}
	r.cloud.CheckCalls(t, fakecloud.DeleteVolume, 1)
}

func TestDeleteWaitsForOtherWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		for _, status := range []string{"creating", "extending", "detaching", "backing-up"} {
			id := r.cloud.Add(fakecloud.Volume{Status: status})
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			cindertest.CheckKind(t, r.Delete(short, id), volume.KindInProgress, id, status)
			cancel()
			timer := time.AfterFunc(50*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.Available) })
			if err := r.Delete(t.Context(), id); err != nil {
				t.Errorf("%s: %v", status, err)
			}
			timer.Stop()
		}
	})
}

// Ceph, for instance, must keep a volume that was cloned: Cinder accepts the deletion and takes it
// back.
func TestDeleteFailsWhenCinderTakesItBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.DeleteVolume, time.Hour)
		id := r.cloud.Add(fakecloud.Volume{})
		r.cloud.AfterNext(t, fakecloud.DeleteVolume, func() { r.cloud.SetVolumeStatus(id, state.Available) })
		cindertest.CheckKind(t, r.Delete(t.Context(), id), volume.KindPrecondition, id, "did not complete the deletion",
			"available")

		// The API may answer once from a replica that lags.
		delayed := r.cloud.Add(fakecloud.Volume{})
		r.cloud.AfterNext(t, fakecloud.DeleteVolume, func() {
			r.cloud.SetVolumeStatus(delayed, state.Available)
			cindertest.After(t, 400*time.Millisecond, func() { r.cloud.RemoveVolume(delayed) })
		})
		if err := r.Delete(t.Context(), delayed); err != nil {
			t.Error(err)
		}
	})
}

func TestDeleteThroughFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"cut off": fakecloud.CutOff(), "lost": fakecloud.LostReply(), "500": cindertest.Broken(),
		"token": fakecloud.TokenExpires(), "half": fakecloud.Truncated(), "a page": fakecloud.WrongContentType(),
		"throttled": fakecloud.Throttled(http.StatusTooManyRequests, 0), "409": fakecloud.Status(http.StatusConflict, ""),
	} {
		for _, call := range []fakecloud.Call{fakecloud.GetVolume, fakecloud.DeleteVolume} {
			t.Run(name+" in "+string(call), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, fakecloud.Options{})
				id := r.cloud.Add(fakecloud.Volume{})
				r.cloud.OnCall(call, fault)
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
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.DeleteVolume, 100*time.Millisecond)
		var wg sync.WaitGroup
		for range 50 {
			id := r.cloud.Add(fakecloud.Volume{})
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
	})
}

// The backend forgets what it knew of a volume that is gone, also if another client deleted it.
func TestDeleteForgetsTheVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	existing, gone := r.cloud.Add(fakecloud.Volume{}), "11111111-2222-4333-8444-555555555555"
	for _, id := range []string{existing, gone} {
		r.copies.Add(id, existing, copies.Volume)
		r.notified.Store(id, volume.GiB)
		if err := r.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{existing, gone} {
		size, isNotified := r.notified.Load(id)
		if copies := r.copies.Of(id); len(copies) != 0 || isNotified {
			t.Errorf("the backend still knows the copies %v of %s and the notified size %v, want neither", copies, id, size)
		}
	}
}

package cinder

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestExpand(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	used, server := r.inUse(t, 1)
	for name, id := range map[string]string{"offline": r.cloud.Add(fakecloud.Volume{}), "online": used} {
		v, err := r.Expand(t.Context(), id, 3*volume.GiB)
		if err != nil || v.Size != 3*volume.GiB || v.ID != id || r.cloud.SizeOf(t, id) != 3*volume.GiB {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	if v, err := r.Get(t.Context(), used); err != nil || len(v.Nodes) != 1 || v.Nodes[0] != server {
		t.Errorf("nodes %v and error %v, want %s", v.Nodes, err, server)
	}
	r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 2)
}

// Cinder's scheduler restores status and size; cinder-csi-plugin waits for the status only (C1).
func TestRefusedExtendIsNeverASuccess(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*rig){
		"the backend is full": func(r *rig) { r.cloud.SetCapacity(5) },
		"no backend fits": func(r *rig) {
			r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.Refused()).Always()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			used, _ := r.inUse(t, 1)
			free := r.cloud.Add(fakecloud.Volume{})
			prepare(r)
			for _, id := range []string{used, free} {
				_, err := r.Expand(t.Context(), id, 30*volume.GiB)
				cindertest.CheckKind(t, err, volume.KindOutOfRange, id, "1 GiB", "30 GiB", "Cinder says",
					"lower the requested size")
				if got := r.cloud.SizeOf(t, id); got != volume.GiB {
					t.Errorf("the cloud has %s", got)
				}
			}
			r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 2)
		})
	}
}

// Without a message of Cinder the error contains no reason.
func TestExpandFailsWithoutACinderMessage(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"forbidden": fakecloud.Status(http.StatusForbidden, "no"), "too old": fakecloud.Status(http.StatusNotFound, "no"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.cloud.Add(fakecloud.Volume{})
			r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.Refused())
			r.cloud.OnCall(fakecloud.ListMessages, fault)
			_, err := r.Expand(t.Context(), id, 30*volume.GiB)
			cindertest.CheckKind(t, err, volume.KindOutOfRange, "cannot read", "from 1 GiB")
		})
	}
	t.Run("none written", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.EndsWithSize(1))
		_, err := r.Expand(t.Context(), id, 30*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindOutOfRange, "gave no reason", "from 1 GiB")
	})
}

// A volume that grew by less than the request has not reached the target.
func TestExpandFailsWhenTheVolumeGrowsTooLittle(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.EndsWithSize(2))
	v, err := r.Expand(t.Context(), id, 4*volume.GiB)
	if err != nil || v.Size != 4*volume.GiB || r.cloud.SizeOf(t, id) != 4*volume.GiB {
		t.Errorf("%+v, %v, the cloud has %s", v, err, r.cloud.SizeOf(t, id))
	}
	r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 2)
}

// A retry waits while Cinder still extends (C2).
func TestExtendingIsJoinedNotReissued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.ExtendVolume, 2500*time.Millisecond)
		id := r.cloud.Add(fakecloud.Volume{})
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Expand(short, id, 3*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindDeadline, id, "extending", "1 GiB")
		v, err := r.Expand(t.Context(), id, 3*volume.GiB)
		if err != nil || v.Size != 3*volume.GiB {
			t.Errorf("Expand returns %s and error %v, want 3 GiB", v.Size, err)
		}
		r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 1)
	})
}

// Another client's extension of a volume that is large enough may still fail.
func TestExtendingBeyondTheTargetIsJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{Size: 5, Status: state.Extending})
		timer := time.AfterFunc(200*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.ErrorExtending) })
		defer timer.Stop()
		_, err := r.Expand(t.Context(), id, 3*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindInternal, id, "error_extending")
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = r.Expand(short, r.cloud.Add(fakecloud.Volume{Status: state.Extending}), 3*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindInProgress, "extending")
		r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 0)
	})
}

// An error that ends by itself must not be final for external-resizer; one that the user can
// correct must be infeasible (C3).
func TestKindsOfExpansionErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options fakecloud.Options
		fault   fakecloud.Fault
		volType string
		kind    volume.Kind
		words   []string
	}{
		"quota": {
			options: fakecloud.Options{Quota: &fakecloud.Quota{
				Gigabytes: 3, Volumes: -1, Snapshots: -1, PerVolumeGigabytes: -1,
			}},
			kind: volume.KindOutOfRange, words: []string{"uota"},
		},
		"limit of a volume": {
			options: fakecloud.Options{Quota: &fakecloud.Quota{
				Gigabytes: -1, Volumes: -1, Snapshots: -1, PerVolumeGigabytes: 3,
			}},
			kind: volume.KindOutOfRange, words: []string{"413"},
		},
		"limit of the type": {volType: "rbd-small", kind: volume.KindOutOfRange},
		"no permission": {
			fault: fakecloud.Status(http.StatusForbidden, "Policy doesn't allow volume:extend to be performed."),
			kind:  volume.KindDenied,
		},
		"server error":  {fault: fakecloud.Status(http.StatusInternalServerError, "oops"), kind: volume.KindUnavailable},
		"not available": {fault: fakecloud.Status(http.StatusServiceUnavailable, ""), kind: volume.KindUnavailable},
		"microversion gone": {
			fault: fakecloud.Status(http.StatusNotAcceptable, "Version 3.42 is not supported by the API."),
			kind:  volume.KindPrecondition,
		},
		"driver failed": {
			fault: fakecloud.Fails(), kind: volume.KindInternal,
			words: []string{"error_extending", "Cinder says", "openstack volume set --state in-use"},
		},
		"refused and absurd": {fault: fakecloud.Status(http.StatusBadRequest, "no"), kind: volume.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, test.options)
			id, _ := r.inUse(t, 1)
			if test.volType != "" {
				id = r.cloud.Add(fakecloud.Volume{Type: test.volType})
			}
			if test.fault != nil {
				r.cloud.OnCall(fakecloud.ExtendVolume, test.fault).Always()
			}
			_, err := r.Expand(t.Context(), id, 5000*volume.GiB)
			cindertest.CheckKind(t, err, test.kind, append(test.words, id)...)
			if got := r.cloud.SizeOf(t, id); got != volume.GiB {
				t.Errorf("the cloud has %s", got)
			}
		})
	}
}

// Only an administrator can end the state; the message says so at each retry (C4).
func TestErrorExtendingNamesTheRemedy(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.Fails())
	for range 2 {
		_, err := r.Expand(t.Context(), id, 2*volume.GiB)
		cindertest.CheckKind(
			t, err, volume.KindInternal, id, "error_extending", "Cinder says", "openstack volume set --state available "+id,
		)
	}
	r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 1)
	r.cloud.SetVolumeStatus(id, state.Available)
	if v, err := r.Expand(t.Context(), id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
		t.Errorf("after the reset: %+v, %v", v, err)
	}
}

// An old cloud extends offline only (C5).
func TestOldCloudExtendsOfflineOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{CinderMax: "3.41"})
	used, _ := r.inUse(t, 1)
	_, err := r.Expand(t.Context(), used, 2*volume.GiB)
	cindertest.CheckKind(t, err, volume.KindPrecondition, "offline only", "3.42", "3.41")
	r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 0)
	if v, err := r.Expand(t.Context(), r.cloud.Add(fakecloud.Volume{}), 2*volume.GiB); err != nil ||
		v.Size != 2*volume.GiB {
		t.Errorf("%+v, %v", v, err)
	}
}

// Concurrent calls for one volume make one extension (C6).
func TestConcurrentExpandsAreOneExtension(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.ExtendVolume, 100*time.Millisecond)
		id, _ := r.inUse(t, 1)
		server := controller.New(r.Backend, controller.Options{})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				resp, err := server.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
					VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: (5 * volume.GiB).Bytes()},
				})
				if err != nil || resp.GetCapacityBytes() != (5*volume.GiB).Bytes() || !resp.GetNodeExpansionRequired() {
					t.Errorf("%v, %v", resp, err)
				}
			})
		}
		wg.Wait()
		r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 1)
	})
}

// Another controller or an administrator does not share the lock.
func TestConcurrentExpandsWithoutALock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.ExtendVolume, 100*time.Millisecond)
		id := r.cloud.Add(fakecloud.Volume{})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				checkExpand(t.Context(), t, r.Backend, id, 5*volume.GiB)
			})
		}
		wg.Wait()
		accepted := 0
		for _, q := range r.cloud.Requests() {
			if q.Call == fakecloud.ExtendVolume && q.Status == http.StatusAccepted {
				accepted++
			}
		}
		if accepted != 1 {
			t.Errorf("%d extensions were accepted, want 1", accepted)
		}
	})
}

// Expand returns Cinder's size in whole GiB, also for a smaller target (C9).
func TestExpandReturnsTheRealSize(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{Size: 1})
	v, err := r.Expand(t.Context(), id, volume.GiB+1)
	if err != nil || v.Size != 2*volume.GiB {
		t.Errorf("%+v, %v, want 2 GiB", v, err)
	}
	r.cloud.SetVolumeSize(id, 7)
	r.cloud.ClearRequests()
	v, err = r.Expand(t.Context(), id, 3*volume.GiB)
	if err != nil || v.Size != 7*volume.GiB {
		t.Errorf("%+v, %v, want 7 GiB", v, err)
	}
	r.cloud.CheckCalls(t, fakecloud.AnyCall, 1)
}

// Expand waits while Cinder does something else with the volume, and names the state if that lasts.
func TestExpandWaitsForOtherWork(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"attaching", "reserved", "backing-up", "retyping", "maintenance"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				id := r.cloud.Add(fakecloud.Volume{Status: status})
				short, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := r.Expand(short, id, 2*volume.GiB)
				cindertest.CheckKind(t, err, volume.KindInProgress, id, status)
				r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 0)
				timer := time.AfterFunc(100*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.Available) })
				defer timer.Stop()
				checkExpand(t.Context(), t, r.Backend, id, 2*volume.GiB)
			})
		})
	}
}

func TestExpandRefusesFailedVolumes(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for state, kind := range map[string]volume.Kind{
		state.Error: volume.KindInternal, state.ErrorDeleting: volume.KindInternal, state.ErrorRestoring: volume.KindInternal,
		state.Deleting: volume.KindInProgress,
	} {
		_, err := r.Expand(t.Context(), r.cloud.Add(fakecloud.Volume{Status: state}), 2*volume.GiB)
		cindertest.CheckKind(t, err, kind)
	}
	_, err := r.Expand(t.Context(), "no-such-volume", 2*volume.GiB)
	cindertest.CheckKind(t, err, volume.KindNotFound, "no-such-volume")
	_, err = r.Expand(t.Context(), "../../servers", 2*volume.GiB)
	cindertest.CheckKind(t, err, volume.KindNotFound)
}

// After a lost answer Expand judges by the volume.
func TestExpandSucceedsWhenTheReplyIsLost(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"lost": fakecloud.LostReply(), "a proxy's page": fakecloud.WrongContentType(), "half": fakecloud.Truncated(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				r.cloud.SetDuration(fakecloud.ExtendVolume, 100*time.Millisecond)
				id := r.cloud.Add(fakecloud.Volume{})
				r.cloud.OnCall(fakecloud.ExtendVolume, fault)
				checkExpand(t.Context(), t, r.Backend, id, 2*volume.GiB)
				r.cloud.CheckCalls(t, fakecloud.ExtendVolume, 1)
			})
		})
	}
}

// Expand or its retry succeeds despite faults that end by themselves.
func TestExpandThroughFaults(t *testing.T) {
	t.Parallel()
	calls := []fakecloud.Call{fakecloud.GetVolume, fakecloud.ExtendVolume}
	for name, fault := range map[string]fakecloud.Fault{
		"cut off": fakecloud.CutOff(), "throttled": fakecloud.Throttled(http.StatusTooManyRequests, 1),
		"throttled with 413": fakecloud.Throttled(http.StatusRequestEntityTooLarge, 1), "500": cindertest.Broken(),
		"token expires": fakecloud.TokenExpires(), "half an answer": fakecloud.Truncated(),
		"a page": fakecloud.WrongContentType(),
		"lost":   fakecloud.LostReply(), "409": fakecloud.Status(http.StatusConflict, "busy"),
	} {
		for _, call := range calls {
			for _, after := range []int{0, 1} {
				if call == fakecloud.ExtendVolume && after > 0 {
					continue // it is asked for once
				}
				t.Run(name+" in "+string(call), func(t *testing.T) {
					t.Parallel()
					r := newRig(t, fakecloud.Options{})
					id := r.cloud.Add(fakecloud.Volume{})
					r.cloud.OnCall(call, fault).After(after)
					v, err := r.Expand(t.Context(), id, 2*volume.GiB)
					if err != nil {
						if kind := volume.KindOf(err); kind != volume.KindUnavailable && kind != volume.KindInProgress {
							t.Fatalf("a fault that passes is told as %v (%s)", err, kind)
						}
						v, err = r.Expand(t.Context(), id, 2*volume.GiB)
					}
					if err != nil || v.Size != 2*volume.GiB || r.cloud.SizeOf(t, id) != 2*volume.GiB {
						t.Errorf("%+v, %v, the cloud has %s", v, err, r.cloud.SizeOf(t, id))
					}
				})
			}
		}
	}
}

// Expand reports an extension that never ends as unfinished, not as failed. The server ends ctx
// before the deadline of its caller (package csiserver).
func TestExpandReportsAnExtensionThatHangsAsUnfinished(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.Stuck())
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Expand(short, id, 2*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindDeadline, id, "extending")
	})
}

func TestExpandFailsWhenTheVolumeVanishes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		r.cloud.SetDuration(fakecloud.ExtendVolume, time.Minute)
		timer := time.AfterFunc(100*time.Millisecond, func() { r.cloud.RemoveVolume(id) })
		defer timer.Stop()
		_, err := r.Expand(t.Context(), id, 2*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindNotFound, id)
	})
}

// The error must not contain the message about an earlier refusal.
func TestOldMessageIsNotTheReason(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.Fails())
	_, err := r.Expand(t.Context(), id, 30*volume.GiB)
	cindertest.CheckKind(t, err, volume.KindInternal, "Volume Driver failed to extend volume")
	r.cloud.SetVolumeStatus(id, state.Available)
	r.cloud.AgeMessages(time.Minute)

	r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.EndsWithSize(1)) // refused without a message
	_, err = r.Expand(t.Context(), id, 30*volume.GiB)
	cindertest.CheckKind(t, err, volume.KindOutOfRange, "gave no reason")
	r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.Refused())
	_, err = r.Expand(t.Context(), id, 30*volume.GiB)
	cindertest.CheckKind(t, err, volume.KindOutOfRange, "Could not find any available weighted backend")
}

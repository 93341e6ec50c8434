package cinder

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// safeText is a log that several goroutines write.
type safeText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *safeText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *safeText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestExpand(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	used, server := r.inUse(t, 1)
	for name, id := range map[string]string{"offline": r.add(fakecloud.Volume{}), "online": used} {
		v, err := r.Expand(t.Context(), id, 3*volume.GiB)
		if err != nil || v.Size != 3*volume.GiB || v.ID != id || r.size(t, id) != 3*volume.GiB {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	if v, err := r.Get(t.Context(), used); err != nil || len(v.Nodes) != 1 || v.Nodes[0] != server {
		t.Errorf("%+v, %v", v, err)
	}
	r.wantCalls(t, fakecloud.ExtendVolume, 2)
}

// C1 of cinder-csi-plugin: only the status is awaited. Cinder's scheduler puts
// status and size back.
func TestRefusedExtendIsNeverASuccess(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*rig){
		"the backend is full": func(r *rig) { r.cloud.SetCapacity(5) },
		"no backend fits": func(r *rig) {
			r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Refused()).Always()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			used, _ := r.inUse(t, 1)
			free := r.add(fakecloud.Volume{})
			prepare(r)
			for _, id := range []string{used, free} {
				_, err := r.Expand(t.Context(), id, 30*volume.GiB)
				wantKind(t, err, volume.KindOutOfRange, id, "1 GiB", "30 GiB", "Cinder says", "ask for less")
				if got := r.size(t, id); got != volume.GiB {
					t.Errorf("the cloud has %s", got)
				}
			}
			r.wantCalls(t, fakecloud.ExtendVolume, 2)
		})
	}
}

// Without a message nothing is made up.
func TestRefusedExtendWithoutAMessage(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"forbidden": fakecloud.Status(http.StatusForbidden, "no"), "too old": fakecloud.Status(http.StatusNotFound, "no"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.add(fakecloud.Volume{})
			r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Refused())
			r.cloud.On(fakecloud.Match{Call: fakecloud.ListMessages}, fault)
			_, err := r.Expand(t.Context(), id, 30*volume.GiB)
			wantKind(t, err, volume.KindOutOfRange, "could not be read", "still has 1 GiB")
		})
	}
	t.Run("none written", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, fakecloud.Options{})
		id := r.add(fakecloud.Volume{})
		r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.EndsWithSize(1))
		_, err := r.Expand(t.Context(), id, 30*volume.GiB)
		wantKind(t, err, volume.KindOutOfRange, "gave no reason", "still has 1 GiB")
	})
}

// A volume that grew by less than was asked for is not there yet.
func TestSmallerGrowthIsNotASuccess(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.EndsWithSize(2))
	v, err := r.Expand(t.Context(), id, 4*volume.GiB)
	if err != nil || v.Size != 4*volume.GiB || r.size(t, id) != 4*volume.GiB {
		t.Errorf("%+v, %v, the cloud has %s", v, err, r.size(t, id))
	}
	r.wantCalls(t, fakecloud.ExtendVolume, 2)
}

// C2: a retry while Cinder still extends waits for it.
func TestExtendingIsJoinedNotReissued(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.ExtendVolume, 2500*time.Millisecond)
	id := r.add(fakecloud.Volume{})
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := r.Expand(short, id, 3*volume.GiB)
	wantKind(t, err, volume.KindDeadline, id, "extending", "1 GiB")
	v, err := r.Expand(t.Context(), id, 3*volume.GiB)
	if err != nil || v.Size != 3*volume.GiB {
		t.Errorf("%+v, %v", v, err)
	}
	r.wantCalls(t, fakecloud.ExtendVolume, 1)
}

// Somebody else's extension of a volume that is large enough for us may still
// end in an error.
func TestExtendingBeyondTheTargetIsJoinedToo(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{Size: 5, Status: state.Extending})
	timer := time.AfterFunc(200*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.ErrorExtending) })
	defer timer.Stop()
	_, err := r.Expand(t.Context(), id, 3*volume.GiB)
	wantKind(t, err, volume.KindInternal, id, "error_extending")
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = r.Expand(short, r.add(fakecloud.Volume{Status: state.Extending}), 3*volume.GiB)
	wantKind(t, err, volume.KindInProgress, "extending")
	r.wantCalls(t, fakecloud.ExtendVolume, 0)
}

// C3: what passes by itself must not be final for external-resizer, and what
// the user can mend must be infeasible.
func TestKindsOfExpansionErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options fakecloud.Options
		fault   fakecloud.Fault
		volType string
		kind    volume.Kind
		words   []string
	}{
		"quota":              {options: fakecloud.Options{Quota: &fakecloud.Quota{Gigabytes: 3, Volumes: -1, Snapshots: -1, PerVolumeGigabytes: -1}}, kind: volume.KindOutOfRange, words: []string{"uota"}},
		"limit of a volume":  {options: fakecloud.Options{Quota: &fakecloud.Quota{Gigabytes: -1, Volumes: -1, Snapshots: -1, PerVolumeGigabytes: 3}}, kind: volume.KindOutOfRange, words: []string{"413"}},
		"limit of the type":  {volType: "rbd-small", kind: volume.KindOutOfRange},
		"no permission":      {fault: fakecloud.Status(http.StatusForbidden, "Policy doesn't allow volume:extend to be performed."), kind: volume.KindDenied},
		"server error":       {fault: fakecloud.Status(http.StatusInternalServerError, "oops"), kind: volume.KindUnavailable},
		"not available":      {fault: fakecloud.Status(http.StatusServiceUnavailable, ""), kind: volume.KindUnavailable},
		"microversion gone":  {fault: fakecloud.Status(http.StatusNotAcceptable, "Version 3.42 is not supported by the API."), kind: volume.KindPrecondition},
		"driver failed":      {fault: fakecloud.Fails(), kind: volume.KindInternal, words: []string{"error_extending", "Cinder says", "openstack volume set --state in-use"}},
		"refused and absurd": {fault: fakecloud.Status(http.StatusBadRequest, "no"), kind: volume.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, test.options)
			id, _ := r.inUse(t, 1)
			if test.volType != "" {
				id = r.add(fakecloud.Volume{Type: test.volType})
			}
			if test.fault != nil {
				r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, test.fault).Always()
			}
			_, err := r.Expand(t.Context(), id, 5000*volume.GiB)
			wantKind(t, err, test.kind, append(test.words, id)...)
			if got := r.size(t, id); got != volume.GiB {
				t.Errorf("the cloud has %s", got)
			}
		})
	}
}

// C4: the state is a dead end without an administrator, and the message says so
// at each retry.
func TestErrorExtendingNamesTheRemedy(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Fails())
	for range 2 {
		_, err := r.Expand(t.Context(), id, 2*volume.GiB)
		wantKind(t, err, volume.KindInternal, id, "error_extending", "Cinder says", "openstack volume set --state available "+id)
	}
	r.wantCalls(t, fakecloud.ExtendVolume, 1)
	r.cloud.SetVolumeStatus(id, state.Available)
	if v, err := r.Expand(t.Context(), id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
		t.Errorf("after the reset: %+v, %v", v, err)
	}
}

// C5: an old cloud extends offline only.
func TestOldCloudExtendsOfflineOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{CinderMax: "3.41"})
	used, _ := r.inUse(t, 1)
	_, err := r.Expand(t.Context(), used, 2*volume.GiB)
	wantKind(t, err, volume.KindPrecondition, "offline only", "3.42", "3.41")
	r.wantCalls(t, fakecloud.ExtendVolume, 0)
	if v, err := r.Expand(t.Context(), r.add(fakecloud.Volume{}), 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
		t.Errorf("%+v, %v", v, err)
	}
}

// C6: calls for one volume at once make one extension.
func TestConcurrentExpandsAreOneExtension(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.ExtendVolume, 100*time.Millisecond)
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
	r.wantCalls(t, fakecloud.ExtendVolume, 1)
}

// Two controllers, or an administrator, do not share our lock.
func TestConcurrentExpandsWithoutALock(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.slow(fakecloud.ExtendVolume, 100*time.Millisecond)
	id := r.add(fakecloud.Volume{})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if v, err := r.Expand(t.Context(), id, 5*volume.GiB); err != nil || v.Size != 5*volume.GiB {
				t.Errorf("%+v, %v", v, err)
			}
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
}

// C9: the size returned is Cinder's, whole GiB, also for a smaller target.
func TestExpandReturnsTheRealSize(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{Size: 1})
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
	r.wantCalls(t, fakecloud.AnyCall, 1)
}

// A volume that something else works on is waited for, and the state is named
// when it lasts.
func TestExpandWaitsForOtherWork(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"attaching", "reserved", "backing-up", "retyping", "maintenance"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.add(fakecloud.Volume{Status: status})
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := r.Expand(short, id, 2*volume.GiB)
			wantKind(t, err, volume.KindInProgress, id, status)
			r.wantCalls(t, fakecloud.ExtendVolume, 0)
			timer := time.AfterFunc(100*time.Millisecond, func() { r.cloud.SetVolumeStatus(id, state.Available) })
			defer timer.Stop()
			if v, err := r.Expand(t.Context(), id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
				t.Errorf("%+v, %v", v, err)
			}
		})
	}
}

func TestExpandOfBrokenVolumes(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for state, kind := range map[string]volume.Kind{
		state.Error: volume.KindInternal, state.ErrorDeleting: volume.KindInternal, state.ErrorRestoring: volume.KindInternal, state.Deleting: volume.KindInProgress,
	} {
		_, err := r.Expand(t.Context(), r.add(fakecloud.Volume{Status: state}), 2*volume.GiB)
		wantKind(t, err, kind)
	}
	_, err := r.Expand(t.Context(), "no-such-volume", 2*volume.GiB)
	wantKind(t, err, volume.KindNotFound, "no-such-volume")
	_, err = r.Expand(t.Context(), "../../servers", 2*volume.GiB)
	wantKind(t, err, volume.KindNotFound)
}

// An answer that gets lost says nothing: the volume does.
func TestLostReplyToExtend(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"lost": fakecloud.LostReply(), "a proxy's page": fakecloud.WrongContentType(), "half": fakecloud.Truncated(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			r.slow(fakecloud.ExtendVolume, 100*time.Millisecond)
			id := r.add(fakecloud.Volume{})
			r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fault)
			if v, err := r.Expand(t.Context(), id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
				t.Errorf("%+v, %v", v, err)
			}
			r.wantCalls(t, fakecloud.ExtendVolume, 1)
		})
	}
}

// Faults that pass are ridden out, or told as such, and the retry succeeds.
func TestExpandThroughFaults(t *testing.T) {
	t.Parallel()
	calls := []fakecloud.Call{fakecloud.GetVolume, fakecloud.ExtendVolume}
	for name, fault := range map[string]fakecloud.Fault{
		"cut off": fakecloud.CutOff(), "throttled": fakecloud.Throttled(http.StatusTooManyRequests, 1),
		"throttled with 413": fakecloud.Throttled(http.StatusRequestEntityTooLarge, 1), "500": fakecloud.Status(http.StatusInternalServerError, ""),
		"token expires": fakecloud.TokenExpires(), "half an answer": fakecloud.Truncated(), "a page": fakecloud.WrongContentType(),
		"lost": fakecloud.LostReply(), "409": fakecloud.Status(http.StatusConflict, "busy"),
	} {
		for _, call := range calls {
			for _, after := range []int{0, 1} {
				if call == fakecloud.ExtendVolume && after > 0 {
					continue // it is asked for once
				}
				t.Run(name+" in "+string(call), func(t *testing.T) {
					t.Parallel()
					r := newRig(t, fakecloud.Options{})
					id := r.add(fakecloud.Volume{})
					r.cloud.On(fakecloud.Match{Call: call}, fault).After(after)
					v, err := r.Expand(t.Context(), id, 2*volume.GiB)
					if err != nil {
						if kind := volume.KindOf(err); kind != volume.KindUnavailable && kind != volume.KindInProgress {
							t.Fatalf("a fault that passes is told as %v (%s)", err, kind)
						}
						v, err = r.Expand(t.Context(), id, 2*volume.GiB)
					}
					if err != nil || v.Size != 2*volume.GiB || r.size(t, id) != 2*volume.GiB {
						t.Errorf("%+v, %v, the cloud has %s", v, err, r.size(t, id))
					}
				})
			}
		}
	}
}

// An extension that never ends is told as unfinished, never as failed.
func TestStuckExtension(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Stuck())
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := r.Expand(short, id, 2*volume.GiB)
	wantKind(t, err, volume.KindDeadline, id, "extending")
	if short.Err() != nil {
		t.Error("the answer came after the caller's deadline")
	}
}

func TestVolumeVanishesWhileItIsExtended(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.slow(fakecloud.ExtendVolume, time.Minute)
	timer := time.AfterFunc(100*time.Millisecond, func() { r.cloud.RemoveVolume(id) })
	defer timer.Stop()
	_, err := r.Expand(t.Context(), id, 2*volume.GiB)
	wantKind(t, err, volume.KindNotFound, id)
}

// Clouds whose Cinder may not talk to Nova.
func TestNotifyNova(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options fakecloud.Options
		notify  bool
		grown   int
		events  int
		logged  string
	}{
		"Cinder may":                   {grown: 2},
		"Cinder may not":               {options: fakecloud.Options{ForbidEvents: true}, grown: 1},
		"Cinder may not, but we":       {options: fakecloud.Options{ForbidEvents: true, ServiceRole: true}, notify: true, grown: 2, events: 1},
		"neither Cinder nor we may":    {options: fakecloud.Options{ForbidEvents: true}, notify: true, grown: 1, events: 1, logged: "external-events"},
		"a Nova that knows no events":  {options: fakecloud.Options{NovaMax: "2.50"}, notify: true, grown: 1, logged: "2.51"},
		"both of us tell, and it's ok": {options: fakecloud.Options{ServiceRole: true}, notify: true, grown: 2, events: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := new(safeText)
			r := newRig(t, test.options, withLog(log), func(o *Options) { o.NotifyNova = test.notify })
			id, server := r.inUse(t, 1)
			if v, err := r.Expand(t.Context(), id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
				t.Fatalf("%+v, %v", v, err)
			}
			r.wantCalls(t, fakecloud.SendEvents, test.events)
			if test.logged != "" && !strings.Contains(log.String(), test.logged) {
				t.Errorf("the log does not name %q: %s", test.logged, log)
			}
			if name == "a Nova that knows no events" {
				return // whether such a Nova resizes is not the fake's to say
			}
			deadline := time.Now().Add(5 * time.Second)
			got, ok := r.cloud.GuestSize(server, id)
			for got != test.grown && time.Now().Before(deadline) {
				if err := operation.Sleep(t.Context(), 5*time.Millisecond); err != nil {
					t.Fatal(err)
				}
				got, ok = r.cloud.GuestSize(server, id)
			}
			if !ok || got != test.grown {
				t.Errorf("the guest sees %d GiB (%t), want %d", got, ok, test.grown)
			}
		})
	}
}

func TestNovaIsToldOfAGrowthOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ServiceRole: true}, func(o *Options) { o.NotifyNova = true })
	id, _ := r.inUse(t, 3)
	expand := func(r *rig, target volume.Size, events int) {
		t.Helper()
		r.cloud.ClearRequests()
		if _, err := r.Expand(within(t, 10*time.Second), id, target); err != nil {
			t.Error(err)
		}
		r.wantCalls(t, fakecloud.SendEvents, events)
	}
	expand(r, 2*volume.GiB, 0) // nothing grows
	for _, fault := range []fakecloud.Fault{fakecloud.Refused(), fakecloud.Fails()} {
		r.cloud.ClearRequests()
		r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fault)
		if _, err := r.Expand(within(t, 10*time.Second), id, 4*volume.GiB); err == nil {
			t.Error("a refused extension succeeded")
		}
		r.wantCalls(t, fakecloud.SendEvents, 0)
	}
	r.cloud.SetVolumeStatus(id, state.InUse)
	expand(r, 4*volume.GiB, 1)
	expand(r, 4*volume.GiB, 0)
	expand(r, 5*volume.GiB, 1)
	expand(r, 4*volume.GiB, 0)

	// A controller that was stopped between the growth and the event.
	again := newRigOver(t, r.cloud, func(o *Options) { o.NotifyNova = true })
	expand(again, 4*volume.GiB, 0)
	expand(again, 5*volume.GiB, 1)
	expand(again, 5*volume.GiB, 0)
}

// The call that asked for the extension may end before it.
func TestNovaIsToldOfAGrowthByTheCallThatSeesIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ServiceRole: true}, func(o *Options) { o.NotifyNova = true })
	id, _ := r.inUse(t, 1)
	r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Stuck())
	_, err := r.Expand(within(t, time.Second), id, 2*volume.GiB)
	wantKind(t, err, volume.KindDeadline)
	r.wantCalls(t, fakecloud.SendEvents, 0)
	r.cloud.Release(id)
	if _, err := r.Expand(within(t, 10*time.Second), id, 2*volume.GiB); err != nil {
		t.Error(err)
	}
	r.wantCalls(t, fakecloud.SendEvents, 1)
}

// A refusal must not be explained by the message about an earlier one.
func TestOldMessageIsNoReason(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Fails())
	_, err := r.Expand(t.Context(), id, 30*volume.GiB)
	wantKind(t, err, volume.KindInternal, "Volume Driver failed to extend volume")
	r.cloud.SetVolumeStatus(id, state.Available)
	r.cloud.AgeMessages(time.Minute)

	r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.EndsWithSize(1)) // refused without a message
	_, err = r.Expand(t.Context(), id, 30*volume.GiB)
	wantKind(t, err, volume.KindOutOfRange, "gave no reason")
	r.cloud.On(fakecloud.Match{Call: fakecloud.ExtendVolume}, fakecloud.Refused())
	_, err = r.Expand(t.Context(), id, 30*volume.GiB)
	wantKind(t, err, volume.KindOutOfRange, "Could not find any available weighted backend")
}

// The volume has grown, whether Nova listens or not.
func TestSilentNovaDoesNotHoldUpTheAnswer(t *testing.T) {
	t.Parallel()
	log := new(safeText)
	r := newRig(t, fakecloud.Options{}, withLog(log), func(o *Options) { o.NotifyNova = true })
	id, _ := r.inUse(t, 1)
	r.cloud.SetLatency(fakecloud.SendEvents, fakecloud.Latency{Answer: fakecloud.Fixed(time.Minute)})
	ctx := within(t, 2*time.Second)
	if v, err := r.Expand(ctx, id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB || ctx.Err() != nil {
		t.Errorf("%+v, %v, %v", v, err, ctx.Err())
	}
	if !strings.Contains(log.String(), "could not tell Nova") {
		t.Errorf("not logged: %s", log)
	}
}

func TestNovaIsToldAgainWhenItCouldNotBe(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ServiceRole: true}, func(o *Options) { o.NotifyNova = true })
	id, _ := r.inUse(t, 1)
	rule := r.cloud.On(fakecloud.Match{Call: fakecloud.SendEvents}, fakecloud.Status(http.StatusForbidden, "Policy doesn't allow it")).Always()
	for range 2 {
		if _, err := r.Expand(within(t, 10*time.Second), id, 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
	}
	rule.Remove()
	r.cloud.ClearRequests()
	for range 2 {
		if _, err := r.Expand(within(t, 10*time.Second), id, 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
	}
	r.wantCalls(t, fakecloud.SendEvents, 1)
}

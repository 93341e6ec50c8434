package cinder

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// Some clouds do not allow Cinder to notify Nova.
func TestNotifyNova(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		options fakecloud.Options
		notify  bool
		grown   int
		events  int
		logged  string
	}{
		"Cinder may":     {grown: 2},
		"Cinder may not": {options: fakecloud.Options{ForbidEvents: true}, grown: 1},
		"Cinder may not, but we": {
			options: fakecloud.Options{ForbidEvents: true, ServiceRole: true}, notify: true, grown: 2, events: 1,
		},
		"neither Cinder nor we may": {
			options: fakecloud.Options{ForbidEvents: true}, notify: true, grown: 1, events: 1, logged: "external-events",
		},
		"a Nova that knows no events":  {options: fakecloud.Options{NovaMax: "2.50"}, notify: true, grown: 1, logged: "2.51"},
		"both of us tell, and it's ok": {options: fakecloud.Options{ServiceRole: true}, notify: true, grown: 2, events: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := new(cindertest.Text)
				r := newRig(t, test.options, withLog(log), func(o *Options) { o.NotifyNova = test.notify })
				id, server := r.inUse(t, 1)
				if v, err := r.Expand(t.Context(), id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
					t.Fatalf("%+v, %v", v, err)
				}
				r.cloud.CheckCalls(t, fakecloud.SendEvents, test.events)
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
		})
	}
}

func TestNovaIsNotifiedOnceOfASize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{ServiceRole: true}, func(o *Options) { o.NotifyNova = true })
		id, _ := r.inUse(t, 3)
		expand := func(r *rig, target volume.Size, events int) {
			t.Helper()
			r.cloud.ClearRequests()
			if _, err := r.Expand(cindertest.Within(t, 10*time.Second), id, target); err != nil {
				t.Error(err)
			}
			r.cloud.CheckCalls(t, fakecloud.SendEvents, events)
		}
		expand(r, 2*volume.GiB, 0) // nothing grows
		for _, fault := range []fakecloud.Fault{fakecloud.Refused(), fakecloud.Fails()} {
			r.cloud.ClearRequests()
			r.cloud.OnCall(fakecloud.ExtendVolume, fault)
			if _, err := r.Expand(cindertest.Within(t, 10*time.Second), id, 4*volume.GiB); err == nil {
				t.Error("a refused extension succeeded")
			}
			r.cloud.CheckCalls(t, fakecloud.SendEvents, 0)
		}
		r.cloud.SetVolumeStatus(id, state.InUse)
		expand(r, 4*volume.GiB, 1)
		expand(r, 4*volume.GiB, 0)
		expand(r, 5*volume.GiB, 1)
		expand(r, 4*volume.GiB, 0)

		// The controller was stopped between the growth and the event.
		again := newRigOver(t, r.cloud.Cloud, func(o *Options) { o.NotifyNova = true })
		expand(again, 4*volume.GiB, 0)
		expand(again, 5*volume.GiB, 1)
		expand(again, 5*volume.GiB, 0)
	})
}

// The call that asked for the extension may end before the extension.
func TestNovaIsNotifiedByTheCallThatSeesTheGrowth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{ServiceRole: true}, func(o *Options) { o.NotifyNova = true })
		id, _ := r.inUse(t, 1)
		r.cloud.OnCall(fakecloud.ExtendVolume, fakecloud.Stuck())
		_, err := r.Expand(cindertest.Within(t, time.Second), id, 2*volume.GiB)
		cindertest.CheckKind(t, err, volume.KindDeadline)
		r.cloud.CheckCalls(t, fakecloud.SendEvents, 0)
		r.cloud.Release(id)
		if _, err := r.Expand(cindertest.Within(t, 10*time.Second), id, 2*volume.GiB); err != nil {
			t.Error(err)
		}
		r.cloud.CheckCalls(t, fakecloud.SendEvents, 1)
	})
}

// The volume has grown, whether Nova answers or not.
func TestSilentNovaDoesNotDelayTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := new(cindertest.Text)
		r := newRig(t, fakecloud.Options{}, withLog(log), func(o *Options) { o.NotifyNova = true })
		id, _ := r.inUse(t, 1)
		r.cloud.SetLatency(fakecloud.SendEvents, fakecloud.Latency{Answer: fakecloud.Fixed(time.Minute)})
		ctx := cindertest.Within(t, 2*time.Second)
		if v, err := r.Expand(ctx, id, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB || ctx.Err() != nil {
			t.Errorf("%+v, %v, %v", v, err, ctx.Err())
		}
		if !strings.Contains(log.String(), "cannot notify Nova") {
			t.Errorf("not logged: %s", log)
		}
	})
}

func TestNovaIsNotifiedAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{ServiceRole: true}, func(o *Options) { o.NotifyNova = true })
		id, _ := r.inUse(t, 1)
		rule := r.cloud.OnCall(fakecloud.SendEvents, cindertest.Denied()).Always()
		for range 2 {
			if _, err := r.Expand(cindertest.Within(t, 10*time.Second), id, 2*volume.GiB); err != nil {
				t.Fatal(err)
			}
		}
		rule.Remove()
		r.cloud.ClearRequests()
		for range 2 {
			if _, err := r.Expand(cindertest.Within(t, 10*time.Second), id, 2*volume.GiB); err != nil {
				t.Fatal(err)
			}
		}
		r.cloud.CheckCalls(t, fakecloud.SendEvents, 1)
	})
}

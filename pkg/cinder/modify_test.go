package cinder

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestModify(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
	for range 2 { // the second time there is nothing to do
		if err := r.Modify(t.Context(), id, map[string]string{class.ParamType: "rbd-gold"}); err != nil {
			t.Fatal(err)
		}
	}
	if v, _ := r.cloud.Volume(id); v.Type != "rbd-gold" || v.Status != state.Available {
		t.Errorf("the volume is %s with the type %s, want available with rbd-gold", v.Status, v.Type)
	}
	r.cloud.CheckCalls(t, fakecloud.RetypeVolume, 1)
}

// The trap of the extension once more: the status comes back, the type stays.
func TestRefusedRetypeIsNeverASuccess(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{"refused": fakecloud.Refused(), "failed": fakecloud.Fails()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
			r.cloud.OnCall(fakecloud.RetypeVolume, fault)
			err := r.Modify(t.Context(), id, map[string]string{class.ParamType: "rbd-gold"})
			cindertest.CheckKind(t, err, volume.KindInvalid, id, "rbd-gold", class.ParamPolicy)
			if v, _ := r.cloud.Volume(id); v.Type != "rbd" {
				t.Errorf("the volume has the type %s, want rbd", v.Type)
			}
		})
	}
}

func TestRetypingIsJoined(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		r.cloud.SetDuration(fakecloud.RetypeVolume, 2500*time.Millisecond)
		id := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
		parameters := map[string]string{class.ParamType: "rbd-gold", class.ParamPolicy: class.PolicyOnDemand}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		cindertest.CheckKind(t, r.Modify(short, id, parameters), volume.KindDeadline, "retyping")
		if err := r.Modify(t.Context(), id, parameters); err != nil {
			t.Error(err)
		}
		r.cloud.CheckCalls(t, fakecloud.RetypeVolume, 1)
	})
}

func TestModifyRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
	for name, parameters := range map[string]map[string]string{
		"unknown key": {class.ParamType: "rbd-gold", "iops": "7"}, "unknown type": {class.ParamType: "gold"},
		"no type":        {class.ParamType: ""},
		"unknown policy": {class.ParamType: "rbd-gold", class.ParamPolicy: "always"},
	} {
		if err := r.Modify(t.Context(), id, parameters); !volume.IsKind(err, volume.KindInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.cloud.CheckCalls(t, fakecloud.RetypeVolume, 0)
	cindertest.CheckKind(
		t, r.Modify(t.Context(), "no-such-volume", map[string]string{class.ParamType: "rbd-gold"}), volume.KindNotFound,
	)
	cindertest.CheckKind(
		t,
		r.Modify(
			t.Context(), r.cloud.Add(fakecloud.Volume{Status: state.Error}), map[string]string{class.ParamType: "rbd-gold"},
		),
		volume.KindInternal,
	)
}

func TestModifyThroughFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"lost": fakecloud.LostReply(), "cut off": fakecloud.CutOff(), "500": cindertest.Broken(),
		"token": fakecloud.TokenExpires(), "a page": fakecloud.WrongContentType(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
			r.cloud.OnCall(fakecloud.RetypeVolume, fault)
			err := r.Modify(t.Context(), id, map[string]string{class.ParamType: "rbd-gold"})
			if err != nil {
				cindertest.CheckKind(t, err, volume.KindUnavailable)
				err = r.Modify(t.Context(), id, map[string]string{class.ParamType: "rbd-gold"})
			}
			if v, _ := r.cloud.Volume(id); err != nil || v.Type != "rbd-gold" {
				t.Errorf("%v, type %s", err, v.Type)
			}
		})
	}
}

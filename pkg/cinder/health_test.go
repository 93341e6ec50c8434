package cinder

import (
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for state, want := range map[string]volume.Impairment{
		state.Available: 0, state.InUse: 0, state.Extending: 0,
		state.ErrorExtending: volume.ImpairmentDegraded, state.Maintenance: volume.ImpairmentDegraded,
		state.Error: volume.ImpairmentInaccessible, state.ErrorDeleting: volume.ImpairmentInaccessible,
		state.ErrorRestoring: volume.ImpairmentDataLoss,
	} {
		got, err := r.Health(t.Context(), r.cloud.Add(fakecloud.Volume{Status: state}))
		if err != nil || (want == 0) != (len(got) == 0) {
			t.Errorf("%s: %+v, %v", state, got, err)
		}
		for _, c := range got {
			if c.Impairment != want || c.Reason == "" || !strings.Contains(c.Message, state) ||
				!strings.Contains(c.Message, "next step") {
				t.Errorf("%s: %+v", state, c)
			}
		}
	}
	used, _ := r.inUse(t, 1)
	r.cloud.SetVolumeStatus(used, state.Error)
	if got, err := r.Health(t.Context(), used); err != nil || len(got) != 1 ||
		got[0].Impairment != volume.ImpairmentDegraded {
		t.Errorf("in use and in error: %+v, %v", got, err)
	}
	_, err := r.Health(t.Context(), "no-such-volume")
	cindertest.CheckKind(t, err, volume.KindNotFound)
	if err := r.CheckHealth(t.Context()); err != nil {
		t.Error(err)
	}
}

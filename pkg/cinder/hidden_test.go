package cinder

import (
	"context"
	"net/http"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// A volume that the cloud's policy hides from the user, such as after the loss of a
// role, is neither deleted nor detached.
func TestVolumeIsNotGoneWhenAPolicyHidesIt(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(ctx context.Context, r *rig, id, server string) error{
		"delete":     func(ctx context.Context, r *rig, id, _ string) error { return r.Delete(ctx, id) },
		"detach":     func(ctx context.Context, r *rig, id, server string) error { return r.Detach(ctx, id, server) },
		"detach all": func(ctx context.Context, r *rig, id, _ string) error { return r.Detach(ctx, id, "") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id, server := r.inUse(t, 1)
			r = newRigOver(t, r.cloud.Cloud) // has listed no volume yet
			r.cloud.OnCall(fakecloud.GetVolume, fakecloud.ForeignAnswer(http.StatusNotFound, "application/json",
				`{"itemNotFound": {"code": 404, "message": "Volume {id} could not be found."}}`)).Always()
			r.cloud.OnCall(fakecloud.ListVolumeDetail, cindertest.Denied()).Always()
			cindertest.CheckKind(t, run(t.Context(), r, id, server), volume.KindDenied, id, "hide", "next step")
			if _, plugged := r.cloud.GuestSize(server, id); !plugged {
				t.Error("the disk is detached")
			}
		})
	}
}

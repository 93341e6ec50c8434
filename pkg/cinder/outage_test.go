package cinder

import (
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// hang stops a service of a cloud, as SIGSTOP does to its processes.
func hang(c *fakecloud.Cloud, path string) *fakecloud.Rule {
	return c.On(fakecloud.Match{Path: regexp.MustCompile("^/" + path + "/")}, fakecloud.Hangs()).Always()
}

// A Nova that hangs stops nothing that is Cinder's, of a backend that has just been
// started.
func TestVolumesWorkWhileNovaHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := cindertest.Start(t, fakecloud.Options{}).Cloud
		nova := hang(fake, "compute")
		ctx := cindertest.Within(t, 20*time.Second)
		r := newRigOver(t, fake)
		if err := r.CheckHealth(ctx); err != nil {
			t.Errorf("probe: %v", err)
		}
		start := time.Now()
		v, err := r.Create(ctx, request("pvc-1", volume.GiB, nil))
		if err != nil {
			t.Fatal(err)
		}
		checkExpand(ctx, t, r.Backend, v.ID, 2*volume.GiB)
		clone := request("pvc-2", 2*volume.GiB, nil)
		clone.Source.VolumeID = v.ID
		if _, err := r.CloneVolume(ctx, clone); err != nil {
			t.Errorf("clone: %v", err)
		}
		if _, err := r.Capacity(ctx, volume.CapacityRequest{}); err != nil {
			t.Errorf("capacity: %v", err)
		}
		if vs, _, err := r.ListVolumes(ctx, volume.Page{}); err != nil || len(vs) != 2 {
			t.Errorf("%d volumes are listed, %v", len(vs), err)
		}
		if err := r.Delete(ctx, v.ID); err != nil {
			t.Errorf("delete: %v", err)
		}
		if n, took := nova.Hits(), time.Since(start); n != 0 {
			t.Errorf("%d requests to Nova in %s, want none", n, took)
		}
	})
}

// A volume for several nodes is made although Nova does not say whether it can be
// shared; the creation is not refused for good.
func TestSharedVolumeIsCreatedWhileNovaHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		nova := hang(r.cloud.Cloud, "compute")
		req := request("pvc-1", volume.GiB, map[string]string{class.ParamType: "rbd-multi"})
		access(volume.AccessMultiNodeMultiWriter, true)(&req)
		v, err := r.Create(cindertest.Within(t, 20*time.Second), req)
		if err != nil {
			t.Fatal(err)
		}
		if nova.Hits() == 0 {
			t.Error("Nova is not asked whether it can share volumes")
		}
		_, err = r.Attach(
			cindertest.Within(t, time.Second),
			volume.AttachRequest{VolumeID: v.ID, Node: "6e1a1f0e-0000-4000-8000-000000000000"},
		)
		cindertest.CheckKind(t, err, volume.KindDeadline, "nova")
	})
}

// A Cinder that hangs does not make Probe fail, nor a backend fail to start.
func TestBackendIsHealthyWhileCinderHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := cindertest.Start(t, fakecloud.Options{}).Cloud
		cinder := hang(fake, "volume")
		r := newRigOver(t, fake)
		if err := r.CheckHealth(cindertest.Within(t, time.Second)); err != nil {
			t.Errorf("probe: %v", err)
		}
		_, err := r.Create(cindertest.Within(t, time.Second), request("pvc-1", volume.GiB, nil))
		cindertest.CheckKind(t, err, volume.KindDeadline, "cinder")
		cinder.Remove()
		if _, err := r.Create(cindertest.Within(t, 20*time.Second), request("pvc-1", volume.GiB, nil)); err != nil {
			t.Errorf("when Cinder is back: %v", err)
		}
		if n := len(fake.Volumes()); n != 1 {
			t.Errorf("%d volumes, want 1", n)
		}
	})
}

// A cloud that hangs stops neither Probe nor the volumes of the default cloud.
func TestDefaultCloudWorksWhileAnotherHangs(t *testing.T) {
	t.Parallel()
	for _, service := range []string{"identity", "volume"} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				east, west := startTwoClouds(t)
				silent := hang(west, service)
				b := twoClouds(t, east, west)
				ctx := cindertest.Within(t, 20*time.Second)
				if err := b.CheckHealth(ctx); err != nil {
					t.Errorf("probe: %v", err)
				}
				v, err := b.Create(ctx, request("pvc-1", volume.GiB, nil))
				if err == nil {
					_, err = b.Expand(ctx, v.ID, 2*volume.GiB)
				}
				if err == nil {
					err = b.Delete(ctx, v.ID)
				}
				if err != nil || silent.Hits() != 0 {
					t.Errorf("%v, with %d requests to the other cloud", err, silent.Hits())
				}
				// A listing without the other cloud would say that its volumes are attached nowhere.
				short := cindertest.Within(t, 3*time.Second)
				_, next, err := b.ListVolumes(short, volume.Page{})
				if err == nil && next != "" {
					_, _, err = b.ListVolumes(short, volume.Page{Token: next})
				}
				if err == nil {
					t.Fatal("the listing says nothing of the cloud that it lacks")
				}
				if service == "identity" && !strings.Contains(err.Error(), `"west"`) {
					t.Errorf("the error of the listing does not name the cloud: %v", err)
				}
			})
		})
	}
}

// A default cloud that hangs, be it from the start, does not stop the volumes of
// another; and what may be in it is not gone.
func TestOtherCloudsWorkWhileTheDefaultHangs(t *testing.T) {
	t.Parallel()
	for service, healthy := range map[string]bool{"identity": false, "volume": true} {
		t.Run(service, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				east, west := startTwoClouds(t)
				id := west.AddVolume(fakecloud.Volume{Size: 1, Metadata: cindertest.Own()})
				silent := hang(east, service)
				start := time.Now()
				b := twoClouds(t, east, west)
				if took := time.Since(start); took > 10*time.Second {
					t.Errorf("the start took %s", took)
				}
				switch err := b.CheckHealth(cindertest.Within(t, 10*time.Second)); {
				case healthy && err != nil:
					t.Errorf("probe: %v", err)
				case !healthy:
					cindertest.CheckKind(t, err, volume.KindInProgress, "east")
				}
				checkExpand(cindertest.Within(t, 8*time.Second), t, b, id, 2*volume.GiB)
				const absent = "6e1a1f0e-0000-4000-8000-000000000000"
				ctx := cindertest.Within(t, 4*time.Second)
				_, err := b.Get(ctx, absent)
				cindertest.CheckKind(t, err, volume.KindUnavailable, "east", "does not answer")
				if ctx.Err() != nil {
					t.Error("the answer came only when the caller had given up")
				}
				silent.Remove()
				if err := b.CheckHealth(cindertest.Within(t, 10*time.Second)); err != nil {
					t.Errorf("probe, when the cloud is back: %v", err)
				}
				_, err = b.Get(cindertest.Within(t, 10*time.Second), absent)
				cindertest.CheckKind(t, err, volume.KindNotFound)
			})
		})
	}
}

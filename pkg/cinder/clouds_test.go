package cinder

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// startTwoClouds starts clouds with different identifiers.
func startTwoClouds(t *testing.T) (east, west *fakecloud.Cloud) {
	t.Helper()
	return cindertest.Start(t, fakecloud.Options{Seed: 1}).Cloud, cindertest.Start(t, fakecloud.Options{Seed: 2}).Cloud
}

// twoClouds returns a backend over the clouds east, the default, and west.
func twoClouds(t *testing.T, east, west *fakecloud.Cloud, change ...func(*Options)) *Backend {
	t.Helper()
	byDefault := func(o *Options) { o.Clouds.Default = "east" }
	return newBackend(t, map[string]*fakecloud.Cloud{"east": east, "west": west}, append(change, byDefault)...)
}

func TestSeveralClouds(t *testing.T) {
	t.Parallel()
	east, west := startTwoClouds(t)
	b := twoClouds(t, east, west)
	inWest, err := b.Create(t.Context(), request("pvc-1", volume.GiB, map[string]string{class.ParamCloud: "west"}))
	if err != nil {
		t.Fatal(err)
	}
	bySecret, err := b.Create(
		volume.WithSecrets(t.Context(), map[string]string{"cloud": "west"}), request("pvc-2", volume.GiB, nil),
	)
	if err != nil {
		t.Fatal(err)
	}
	inEast, err := b.Create(t.Context(), request("pvc-3", volume.GiB, nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(west.Volumes()) != 2 || len(east.Volumes()) != 1 {
		t.Fatalf("%d volumes in the west and %d in the east", len(west.Volumes()), len(east.Volumes()))
	}
	r := &rig{Backend: b, cloud: cindertest.Cloud{Cloud: west}}
	if all := r.listAll(t, 1); len(all) != 3 {
		t.Errorf("%d volumes are listed, want 3", len(all))
	}
	// After a restart the backend looks for them in all clouds, if no secret names one.
	b = twoClouds(t, east, west)
	for _, test := range []struct {
		v                   volume.Volume
		secrets, parameters map[string]string
	}{
		{inWest, nil, map[string]string{class.ParamCloud: "west"}},
		{bySecret, map[string]string{"cloud": "west"}, nil},
		{inEast, nil, nil},
	} {
		ctx := volume.WithSecrets(t.Context(), test.secrets)
		if v, found, err := b.Find(ctx, request(test.v.Name, volume.GiB, test.parameters)); !found || err != nil ||
			v.ID != test.v.ID {
			t.Errorf("%s: %+v, %t, %v", test.v.Name, v, found, err)
		}
	}
	b = twoClouds(t, east, west)
	for range 2 {
		checkExpand(t.Context(), t, b, inWest.ID, 2*volume.GiB)
	}
	clone := request("pvc-4", 2*volume.GiB, nil)
	clone.Source.VolumeID = inWest.ID
	if v, err := b.CloneVolume(t.Context(), clone); err != nil || v.Source.VolumeID != inWest.ID {
		t.Errorf("a clone follows its source: %+v, %v", v, err)
	}
	_, err = b.Get(t.Context(), "no-such-volume")
	cindertest.CheckKind(t, err, volume.KindNotFound)
	_, err = b.Get(volume.WithSecrets(t.Context(), map[string]string{"cloud": "moon"}), inWest.ID)
	cindertest.CheckKind(t, err, volume.KindInvalid, "moon", "west")
}

// A volume is not gone because the cloud that it is in does not answer.
func TestVolumeIsNotGoneWhileACloudDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		east, west := startTwoClouds(t)
		id := west.AddVolume(fakecloud.Volume{Size: 1, Metadata: cindertest.Own()})
		b := twoClouds(t, east, west)
		west.StopListening()
		wantSilence := func(call string, work func(ctx context.Context) error) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := work(ctx); !volume.IsKind(err, volume.KindUnavailable) && !volume.IsKind(err, volume.KindDeadline) {
				t.Errorf("%s: %v", call, err)
			}
		}
		get := func(ctx context.Context) error {
			_, err := b.Get(ctx, id)
			return err
		}
		wantSilence("get, before the first login", get)
		if err := west.ResumeListening(t.Context()); err != nil {
			t.Fatal(err)
		}
		b = twoClouds(t, east, west)
		if _, err := b.locator.All(t.Context()); err != nil {
			t.Fatal(err)
		}
		west.On(fakecloud.Match{}, fakecloud.CutOff()).Always()
		wantSilence("get", get)
		wantSilence("delete", func(ctx context.Context) error { return b.Delete(ctx, id) })
		wantSilence("list", func(ctx context.Context) error {
			_, _, err := b.ListVolumes(ctx, volume.Page{Token: "@west"})
			return err
		})
		wantSilence("find", func(ctx context.Context) error {
			_, _, err := b.Find(ctx, request("pvc-1", volume.GiB, map[string]string{class.ParamCloud: "west"}))
			return err
		})
		if _, there := west.Volume(id); !there {
			t.Error("deleted")
		}
	})
}

// Listings of a project with two names have its volumes once.
func TestProjectWithTwoNamesIsListedOnce(t *testing.T) {
	t.Parallel()
	east := cindertest.Start(t, fakecloud.Options{}).Cloud
	r := &rig{Backend: twoClouds(t, east, east), cloud: cindertest.Cloud{Cloud: east}}
	r.cloud.Add(fakecloud.Volume{})
	if all := r.listAll(t, 0); len(all) != 1 {
		t.Errorf("%d volumes are listed, want 1", len(all))
	}
}

// A cloud that cannot be used, or does not answer, does not prevent the use of the others; but the
// volumes that may be there are not gone.
func TestOtherCloudsWorkDespiteABadOne(t *testing.T) {
	t.Parallel()
	for name, configure := range map[string]func(t *testing.T, east, west *fakecloud.Cloud) string{
		"incomplete": func(t *testing.T, east, _ *fakecloud.Cloud) string {
			t.Helper()
			return incomplete(t, cindertest.Config(t, map[string]*fakecloud.Cloud{"east": east}))
		},
		"silent": func(t *testing.T, east, west *fakecloud.Cloud) string {
			t.Helper()
			return cindertest.Config(t, map[string]*fakecloud.Cloud{"east": east, "other": west})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				east, west := startTwoClouds(t)
				west.StopListening()
				path := configure(t, east, west)
				old := east.AddVolume(fakecloud.Volume{Size: 1, Metadata: cindertest.Own()})
				b, err := New(
					t.Context(),
					Options{
						Clouds:    CloudOptions{CloudConfig: []string{path}, Default: "east", Dial: fakecloud.Dialer(east, west)},
						ClusterID: cindertest.ClusterID,
					},
				)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(b.Close)
				ctx := cindertest.Within(t, 20*time.Second)
				server := controller.New(b, controller.Options{})
				made, err := server.CreateVolume(ctx, &csi.CreateVolumeRequest{
					Name: "pvc-" + name,
					VolumeCapabilities: []*csi.VolumeCapability{{
						AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
						AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
					}},
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, id := range []string{made.GetVolume().GetVolumeId(), old} {
					checkExpand(ctx, t, b, id, 2*volume.GiB)
				}
				short := cindertest.Within(t, time.Second)
				vs, _, err := b.ListVolumes(short, volume.Page{})
				if name == "incomplete" && (err != nil || len(vs) == 0) {
					t.Errorf("%d volumes are listed, %v", len(vs), err)
				}
				if name == "silent" && err == nil {
					t.Error("the listing says nothing of the cloud that it lacks")
				}
				if err := b.Delete(cindertest.Within(t, time.Second), "6e1a1f0e-0000-4000-8000-000000000000"); err == nil {
					t.Error("a volume that may be in the other cloud counts as gone")
				}
			})
		})
	}
}

// incomplete adds a cloud without a password to a cloud.conf.
func incomplete(t *testing.T, path string) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("[Global \"other\"]\nauth-url = http://127.0.0.1:1\nusername = csi\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

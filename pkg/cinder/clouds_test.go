package cinder

import (
	"context"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// twoClouds is a backend over the clouds east, the default, and west.
func twoClouds(t *testing.T, east, west *fakecloud.Cloud) *Backend {
	t.Helper()
	path := cloudConf(t, map[string]*fakecloud.Cloud{"east": east, "west": west})
	b, err := New(t.Context(), Options{Clouds: CloudOptions{CloudConfig: []string{path}, Default: "east"}, ClusterID: cluster})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestSeveralClouds(t *testing.T) {
	t.Parallel()
	east, west := fakecloud.Start(t, fakecloud.Options{Seed: 1}), fakecloud.Start(t, fakecloud.Options{Seed: 2})
	b := twoClouds(t, east, west)
	inWest, err := b.Create(t.Context(), request("pvc-1", volume.GiB, map[string]string{paramCloud: "west"}))
	if err != nil {
		t.Fatal(err)
	}
	bySecret, err := b.Create(volume.WithSecrets(t.Context(), map[string]string{"cloud": "west"}), request("pvc-2", volume.GiB, nil))
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
	r := &rig{Backend: b, cloud: west}
	if all := r.listAll(t, 1); len(all) != 3 {
		t.Errorf("%d volumes are listed, want 3", len(all))
	}
	// A restart forgets where they are; without a secret they are looked for.
	b = twoClouds(t, east, west)
	for _, v := range []volume.Volume{inWest, bySecret, inEast} {
		if v, found, err := b.Find(t.Context(), v.Name); !found || err != nil {
			t.Errorf("%s: %t, %v", v.Name, found, err)
		}
	}
	b = twoClouds(t, east, west)
	for range 2 {
		if v, err := b.Expand(t.Context(), inWest.ID, 2*volume.GiB); err != nil || v.Size != 2*volume.GiB {
			t.Errorf("%+v, %v", v, err)
		}
	}
	clone := request("pvc-4", 2*volume.GiB, nil)
	clone.Source.VolumeID = inWest.ID
	if v, err := b.CloneVolume(t.Context(), clone); err != nil || v.Source.VolumeID != inWest.ID {
		t.Errorf("a clone follows its source: %+v, %v", v, err)
	}
	_, err = b.Get(t.Context(), "no-such-volume")
	wantKind(t, err, volume.NotFound)
	_, err = b.Get(volume.WithSecrets(t.Context(), map[string]string{"cloud": "moon"}), inWest.ID)
	wantKind(t, err, volume.Invalid, "moon", "west")
}

// A volume is not gone because the cloud that it is in does not answer.
func TestSilentCloudIsNotAnAbsentVolume(t *testing.T) {
	t.Parallel()
	east, west := fakecloud.Start(t, fakecloud.Options{Seed: 1}), fakecloud.Start(t, fakecloud.Options{Seed: 2})
	id := west.AddVolume(fakecloud.Volume{Size: 1, Metadata: map[string]string{metaCluster: cluster}})
	b := twoClouds(t, east, west)
	west.Shut()
	wantSilence := func(call string, work func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := work(ctx); !volume.IsKind(err, volume.Unavailable) && !volume.IsKind(err, volume.Deadline) {
			t.Errorf("%s: %v", call, err)
		}
	}
	get := func(ctx context.Context) error {
		_, err := b.Get(ctx, id)
		return err
	}
	wantSilence("get, before the first login", get)
	if err := west.Reopen(t.Context()); err != nil {
		t.Fatal(err)
	}
	b = twoClouds(t, east, west)
	if _, err := b.places(t.Context()); err != nil {
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
		_, _, err := b.Find(ctx, "pvc-1")
		return err
	})
	if _, there := west.Volume(id); !there {
		t.Error("deleted")
	}
}

// Two names for one project show its volumes once.
func TestOneProjectUnderTwoNames(t *testing.T) {
	t.Parallel()
	east := fakecloud.Start(t, fakecloud.Options{})
	r := &rig{Backend: twoClouds(t, east, east), cloud: east}
	r.add(fakecloud.Volume{})
	if all := r.listAll(t, 0); len(all) != 1 {
		t.Errorf("%d volumes are listed, want 1", len(all))
	}
}

package cinder

import (
	"fmt"
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// listHealth reads all pages of the listing.
func listHealth(t *testing.T, b *Backend, maxEntries int) (all []volume.Health, pages int) {
	t.Helper()
	page := volume.Page{Max: maxEntries}
	for range 1000 {
		vs, next, err := b.ListHealth(t.Context(), page)
		if err != nil {
			t.Fatal(err)
		}
		if maxEntries > 0 && len(vs) > maxEntries {
			t.Errorf("a page of %d, at most %d were asked for", len(vs), maxEntries)
		}
		all, pages = append(all, vs...), pages+1
		if next == "" {
			return all, pages
		}
		page.Token = next
	}
	t.Fatal("the listing does not end")
	return nil, 0
}

// wantImpaired checks that each of these volumes was listed once, with the conditions of Health.
func wantImpaired(t *testing.T, b *Backend, got []volume.Health, want []string) {
	t.Helper()
	var ids []string
	for _, v := range got {
		ids = append(ids, v.ID)
		alone, err := b.Health(t.Context(), v.ID)
		if err != nil || len(alone) != 1 || len(v.Conditions) != 1 {
			t.Fatalf("%s: listed %+v, alone %+v, %v", v.ID, v.Conditions, alone, err)
		}
		if alone[0].Impairment != v.Conditions[0].Impairment || alone[0].Reason != v.Conditions[0].Reason {
			t.Errorf("%s: listed %+v, alone %+v, %v", v.ID, v.Conditions, alone, err)
		}
	}
	slices.Sort(ids)
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		t.Errorf("listed %v, want %v", ids, want)
	}
}

func TestListHealthListsImpairedVolumesOfThisCluster(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ListLimit: 4})
	ill := []string{state.Error, state.ErrorExtending, state.ErrorDeleting, state.ErrorRestoring, state.Maintenance}
	others := map[string]string{metadata.Cluster: "other"}
	var want []string
	for i := range 20 {
		status := state.Available
		switch i {
		case 0, 9, 10, 11, 19:
			status = ill[len(want)]
		}
		id := r.cloud.Add(fakecloud.Volume{Name: fmt.Sprint(i), Status: status})
		if status != state.Available {
			want = append(want, id)
		}
		r.cloud.AddVolume(fakecloud.Volume{Size: 1, Status: state.Error, Metadata: others})
	}
	for _, maxEntries := range []int{0, 1, 2, 3, 100} {
		r.cloud.ClearRequests()
		got, pages := listHealth(t, r.Backend, maxEntries)
		// One listing a page, and not one call about a single volume.
		r.cloud.CheckCalls(t, fakecloud.ListVolumeDetail, pages)
		r.cloud.CheckCalls(t, fakecloud.AnyCall, pages)
		wantImpaired(t, r.Backend, got, slices.Clone(want))
	}
	for _, token := range []string{"unknown", "x@moon", "gone@csi", "@"} {
		_, _, err := r.ListHealth(t.Context(), volume.Page{Token: token})
		cindertest.CheckKind(t, err, volume.KindStale, "check volumes")
	}
}

// ListHealth asks Cinder for its largest pages, however few entries the caller asks for: few
// volumes are impaired.
func TestListHealthReadsLargePages(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for range 200 {
		r.cloud.Add(fakecloud.Volume{})
	}
	ill := r.cloud.Add(fakecloud.Volume{Status: state.Error})
	r.cloud.ClearRequests()
	got, pages := listHealth(t, r.Backend, 1)
	if pages != 1 || len(got) != 1 || got[0].ID != ill {
		t.Errorf("%+v on %d pages, want %s on one", got, pages, ill)
	}
	r.cloud.CheckCalls(t, fakecloud.AnyCall, 1)
}

func TestListHealthListsEveryCloudAndTheStaticVolumes(t *testing.T) {
	t.Parallel()
	east, west := startTwoClouds(t)
	b := twoClouds(t, east, west)
	marked := cindertest.Own()
	want := []string{
		east.AddVolume(fakecloud.Volume{Size: 1, Status: state.Error, Metadata: marked}),
		west.AddVolume(fakecloud.Volume{Size: 1, Status: state.ErrorExtending, Metadata: marked}),
		west.AddVolume(fakecloud.Volume{Size: 1, Status: state.ErrorExtending, Metadata: marked}),
	}
	c, err := b.clouds.Cloud(t.Context(), "west")
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range []string{state.Error, state.InUse, state.Maintenance} {
		id := west.AddVolume(fakecloud.Volume{Size: 1, Status: status})
		b.statics.add(id, c.Name())
		if status != state.InUse {
			want = append(want, id)
		}
	}
	for _, maxEntries := range []int{0, 1, 2} {
		got, _ := listHealth(t, b, maxEntries)
		wantImpaired(t, b, got, slices.Clone(want))
	}
}

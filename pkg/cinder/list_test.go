package cinder

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// listAll reads all pages of the listing.
func (r *rig) listAll(tb testing.TB, maxEntries int) []volume.Volume {
	tb.Helper()
	var all []volume.Volume
	page := volume.Page{Max: maxEntries}
	for range 1000 {
		vs, next, err := r.ListVolumes(tb.Context(), page)
		if err != nil {
			tb.Fatal(err)
		}
		if maxEntries > 0 && len(vs) > maxEntries {
			tb.Errorf("a page of %d, at most %d were asked for", len(vs), maxEntries)
		}
		all = append(all, vs...)
		if next == "" {
			return all
		}
		page.Token = next
	}
	tb.Fatal("the listing does not end")
	return nil
}

func ids(vs []volume.Volume) []string {
	var out []string
	for _, v := range vs {
		out = append(out, v.ID)
	}
	slices.Sort(out)
	return out
}

// cinder-csi-plugin lists the whole project.
func TestListHasVolumesOfThisClusterOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ListLimit: 7})
	used, server := r.inUse(t, 1)
	own := []string{used}
	for i := range 20 {
		own = append(own, r.cloud.Add(fakecloud.Volume{Name: fmt.Sprint(i)}))
		r.cloud.AddVolume(fakecloud.Volume{Size: 1, Metadata: map[string]string{metadata.Cluster: "other"}})
		r.cloud.AddVolume(fakecloud.Volume{Size: 1})
	}
	slices.Sort(own)
	for _, maxEntries := range []int{0, 1, 3, 100} {
		all := r.listAll(t, maxEntries)
		if got := ids(all); !slices.Equal(got, own) {
			t.Errorf("pages of %d: %v, want %v", maxEntries, got, own)
		}
		for _, v := range all {
			if (v.ID == used) != slices.Equal(v.Nodes, []string{server}) {
				t.Errorf("volume %s has the nodes %v, want %s for %s only", v.ID, v.Nodes, server, used)
			}
		}
	}
	for _, token := range []string{"unknown", "x@moon", "gone@csi", "@"} {
		_, _, err := r.ListVolumes(t.Context(), volume.Page{Token: token})
		cindertest.CheckKind(t, err, volume.KindStale)
	}
}

// An operator can forbid the filter by metadata; then Cinder lists the whole project.
func TestListHasVolumesOfThisClusterOnlyIfCinderDoesNotFilter(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ListLimit: 2, NoMetadataFilter: true})
	var own []string
	for range 3 {
		own = append(own, r.cloud.Add(fakecloud.Volume{Name: "pvc-1", Status: state.Error}))
		r.cloud.AddVolume(fakecloud.Volume{
			Name: "pvc-1", Size: 1, Status: state.Error, Metadata: map[string]string{metadata.Cluster: "other"},
		})
		r.cloud.AddVolume(fakecloud.Volume{Name: "pvc-1", Size: 1, Status: state.Error})
	}
	slices.Sort(own)
	if got := ids(r.listAll(t, 0)); !slices.Equal(got, own) {
		t.Errorf("listed %v, want %v", got, own)
	}
	impaired, _ := listHealth(t, r.Backend, 0)
	wantImpaired(t, r.Backend, impaired, own)
}

// A project can have many more volumes than the cluster.
func TestListAsksForVolumesOfThisClusterOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	r.listAll(t, 0)
	listHealth(t, r.Backend, 0)
	n := 0
	for _, request := range r.cloud.Requests() {
		if request.Call != fakecloud.ListVolumeDetail {
			continue
		}
		n++
		query, err := url.ParseQuery(request.Query)
		if err != nil || query.Get("metadata") != "{'"+metadata.Cluster+"':'"+cindertest.ClusterID+"'}" {
			t.Errorf("asked for %q, %v", request.Query, err)
		}
	}
	if n != 2 {
		t.Errorf("%d listings, want 2", n)
	}
}

func TestListWithoutAClusterHasAllVolumesOfTheProject(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{}, func(o *Options) { o.ClusterID = "" })
	r.cloud.AddVolume(fakecloud.Volume{Size: 1, Metadata: map[string]string{metadata.Cluster: "other"}})
	r.cloud.AddVolume(fakecloud.Volume{Size: 1})
	if got := r.listAll(t, 1); len(got) != 2 {
		t.Errorf("%d volumes, want 2", len(got))
	}
}

// Volumes that an administrator created lack the cluster's metadata. If the driver attached them,
// external-attacher must find them in the listing.
func TestListHasAttachedStaticVolumes(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{r.cloud.Add(fakecloud.Volume{})}
	for range 120 {
		id := r.cloud.AddVolume(fakecloud.Volume{Size: 1})
		want = append(want, id)
		r.statics.add(id, c.Name())
	}
	slices.Sort(want)
	for _, maxEntries := range []int{0, 30} {
		if got := ids(r.listAll(t, maxEntries)); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %d volumes, want %d", maxEntries, len(got), len(want))
		}
	}
	if err := r.Delete(t.Context(), want[5]); err != nil {
		t.Fatal(err)
	}
	r.cloud.RemoveVolume(want[6])
	if got := r.listAll(t, 0); len(got) != len(want)-2 {
		t.Errorf("%d volumes, want %d", len(got), len(want)-2)
	}
}

// staticVolumes puts volumes without the cluster's metadata into the cloud and adds them to the
// backend's static volumes.
func (r *rig) staticVolumes(t *testing.T, n int) (ids []string) {
	t.Helper()
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		id := r.cloud.AddVolume(fakecloud.Volume{Size: 1})
		r.statics.add(id, c.Name())
		ids = append(ids, id)
	}
	r.cloud.ClearRequests()
	return ids
}

func TestListReadsStaticVolumesWithOneCall(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		statics, own, limit int // volumes; a page of the cloud
		lists, gets         int // calls at most
	}{
		"a few are read one by one":     {statics: 3, gets: 3},
		"many are listed":               {statics: 30, lists: 1},
		"a thousand":                    {statics: 1000, lists: 1},
		"on two pages":                  {statics: 30, limit: 20, lists: 2},
		"behind many others":            {statics: 30, own: 40, limit: 30, lists: 3, gets: 11},
		"not behind too many of others": {statics: 8, own: 60, limit: 10, lists: 2, gets: 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{ListLimit: test.limit})
			for range test.own {
				r.cloud.AddVolume(fakecloud.Volume{Size: 1, Metadata: map[string]string{metadata.Cluster: "other"}})
			}
			want := r.staticVolumes(t, test.statics)
			slices.Sort(want)
			if got := ids(r.listAll(t, 0)); !slices.Equal(got, want) {
				t.Errorf("%d volumes, want %d", len(got), len(want))
			}
			lists, gets := r.cloud.Count(fakecloud.ListVolumeDetail), r.cloud.Count(fakecloud.GetVolume)
			if lists > 1+test.lists || gets > test.gets { // the first list is of the cluster's own
				t.Errorf("%d lists and %d volumes were read, want at most %d and %d", lists, gets, 1+test.lists, test.gets)
			}
		})
	}
}

// A volume that a list lacks may belong to another project.
func TestStaticVolumeIsNotGoneWhenAListLacksIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ListLimit: 2})
	want := r.staticVolumes(t, 120)
	slices.Sort(want)
	r.cloud.RemoveVolume(want[7])
	want = slices.Delete(want, 7, 8)
	if got := ids(r.listAll(t, 0)); !slices.Equal(got, want) {
		t.Errorf("%d volumes, want %d", len(got), len(want))
	}
	if got := ids(r.listAll(t, 0)); !slices.Equal(got, want) {
		t.Errorf("at the second time %d volumes, want %d", len(got), len(want))
	}
	if known := slices.Sorted(maps.Keys(r.statics.all())); !slices.Equal(known, want) {
		t.Errorf("%d static volumes are known, want %d", len(known), len(want))
	}
}

func TestListThroughFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for range 3 {
		r.cloud.Add(fakecloud.Volume{})
	}
	for name, fault := range map[string]fakecloud.Fault{
		"half": fakecloud.Truncated(), "a page": fakecloud.WrongContentType(), "500": cindertest.Broken(),
		"cut off": fakecloud.CutOff(), "token": fakecloud.TokenExpires(),
	} {
		r.cloud.OnCall(fakecloud.ListVolumeDetail, fault)
		vs, _, err := r.ListVolumes(t.Context(), volume.Page{})
		if err != nil {
			cindertest.CheckKind(t, err, volume.KindUnavailable)
			vs, _, err = r.ListVolumes(t.Context(), volume.Page{})
		}
		if err != nil || len(vs) != 3 {
			t.Errorf("%s: %d volumes, %v: a listing with less would tell that volumes are attached nowhere", name, len(vs), err)
		}
	}
}

// external-attacher waits for a page no longer than for any call.
func TestListBoundsSingleReadsOfStaticVolumes(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{ListLimit: 2})
	r.staticVolumes(t, 120)
	for token := "@" + staticSection; token != ""; {
		r.cloud.ClearRequests()
		page, next, err := r.ListVolumes(t.Context(), volume.Page{Token: token})
		if err != nil || len(page) == 0 {
			t.Fatalf("%d volumes, %v", len(page), err)
		}
		if gets := r.cloud.Count(fakecloud.GetVolume); gets > maxStaticReads {
			t.Errorf("a page of %d volumes read %d one by one, want at most %d", len(page), gets, maxStaticReads)
		}
		token = next
	}
}

package cinder

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// countingRig is a rig with the metrics and the log of its backend.
func countingRig(t *testing.T, o fakecloud.Options) (*rig, *prometheus.Registry, *cindertest.Text) {
	t.Helper()
	reg, log := prometheus.NewRegistry(), new(cindertest.Text)
	return newRig(t, o, withLog(log), func(o *Options) { o.Registerer = reg }), reg, log
}

// duplicateSeries returns the values of the metric by cloud.
func duplicateSeries(t *testing.T, reg *prometheus.Registry) map[string]int {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]int)
	for _, f := range families {
		if f.GetName() != "growvol_openstack_duplicate_volumes" {
			continue
		}
		for _, m := range f.GetMetric() {
			values[m.GetLabel()[0].GetValue()] = int(m.GetGauge().GetValue())
		}
	}
	return values
}

// wantDuplicates checks the value for the only cloud; below 0: there must be none.
func wantDuplicates(t *testing.T, reg *prometheus.Registry, want int) {
	t.Helper()
	got := duplicateSeries(t, reg)
	if len(got) != 1 && want >= 0 || len(got) != 0 && want < 0 {
		t.Errorf("the series are %v, want %d", got, want)
	}
	for name, n := range got {
		if n != want {
			t.Errorf("%d duplicates in %q, want %d", n, name, want)
		}
	}
}

const duplicatesText = "several volumes of this cluster have the same name"

// A proxy keeps the first request and delivers it after a second one has created the volume.
func TestVolumeOfALateRequestIsReportedAsDuplicate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, reg, log := countingRig(t, fakecloud.Options{})
		wantDuplicates(t, reg, -1)
		deliver := make(chan struct{})
		r.cloud.OnCall(fakecloud.CreateVolume, fakecloud.DeliveredLate(deliver))
		req := request(
			"pvc-1", volume.GiB,
			map[string]string{"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "shop"},
		)
		_, err := r.Create(t.Context(), req)
		cindertest.CheckKind(t, err, volume.KindUnavailable)
		used := r.create(t, req)
		r.listAll(t, 0)
		wantDuplicates(t, reg, 0)
		close(deliver)
		cindertest.Eventually(t, "the late request is carried out", func() bool { return len(r.cloud.Volumes()) == 2 })
		server := r.cloud.AddServer("")
		if _, err := r.Attach(t.Context(), volume.AttachRequest{VolumeID: used.ID, Node: server}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			r.listAll(t, 0)
			wantDuplicates(t, reg, 1)
			listHealth(t, r.Backend, 0)
			wantDuplicates(t, reg, 1)
		}
		duplicate := ""
		for _, v := range r.cloud.Volumes() {
			if v.ID != used.ID {
				duplicate = v.ID
			}
		}
		text := log.String()
		for _, word := range []string{
			duplicate, "claim=shop/data", `"likely in use"=` + used.ID, "it is attached", "kubectl get pv pvc-1",
			"openstack volume delete",
		} {
			if !strings.Contains(text, word) {
				t.Errorf("the log does not name %q: %s", word, text)
			}
		}
		if n := strings.Count(text, duplicatesText); n != 1 {
			t.Errorf("logged %d times, want once: %s", n, text)
		}
		r.cloud.RemoveVolume(duplicate)
		listHealth(t, r.Backend, 0)
		wantDuplicates(t, reg, 0)
		if !strings.Contains(log.String(), "no two volumes of this cluster have the same name any more") {
			t.Error("the end was not logged")
		}
	})
}

func TestDuplicatesCountVolumesOfThisClusterByCloud(t *testing.T) {
	t.Parallel()
	r, reg, log := countingRig(t, fakecloud.Options{NoMetadataFilter: true})
	for range 2 {
		r.cloud.AddVolume(fakecloud.Volume{Name: "pvc-1", Size: 1, Metadata: map[string]string{metadata.Cluster: "other"}})
		r.cloud.AddVolume(fakecloud.Volume{Name: "pvc-1", Size: 1})
		r.cloud.Add(fakecloud.Volume{})
		r.cloud.Add(fakecloud.Volume{Name: "pvc-gone", Status: state.Deleting})
		r.cloud.Add(fakecloud.Volume{Name: "pvc-gone", Status: state.ErrorDeleting})
	}
	r.cloud.Add(fakecloud.Volume{Name: "pvc-1"})
	r.cloud.Add(fakecloud.Volume{Name: "pvc-2"})
	r.listAll(t, 0)
	wantDuplicates(t, reg, 0)
	for range 3 {
		r.cloud.Add(fakecloud.Volume{Name: "pvc-2"})
	}
	failed, used := r.cloud.Add(fakecloud.Volume{Name: "pvc-1", Status: state.Error}), r.cloud.Add(
		fakecloud.Volume{Name: "pvc-2"},
	)
	if _, err := r.Attach(t.Context(), volume.AttachRequest{VolumeID: used, Node: r.cloud.AddServer("")}); err != nil {
		t.Fatal(err)
	}
	r.listAll(t, 0)
	wantDuplicates(t, reg, 5)
	if text := log.String(); strings.Count(text, duplicatesText) != 2 ||
		strings.Contains(text, `"likely in use"=`+failed) || !strings.Contains(text, `"likely in use"=`+used) {
		t.Errorf("%s\nwant %s, which is attached, and not %s", text, used, failed)
	}

	east, west := startTwoClouds(t)
	reg = prometheus.NewRegistry()
	b := twoClouds(t, east, west, func(o *Options) { o.Registerer = reg })
	for _, c := range []*fakecloud.Cloud{east, west, west} {
		c.AddVolume(fakecloud.Volume{Name: "pvc-1", Size: 1, Metadata: cindertest.Own()})
	}
	(&rig{Backend: b}).listAll(t, 1)
	if got, want := duplicateSeries(t, reg), map[string]int{"east": 0, "west": 1}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Without a cluster id the listings have the whole project.
func TestDuplicatesCountVolumesOfThisClusterWhenTheProjectIsListed(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	r := newRig(t, fakecloud.Options{}, func(o *Options) { o.ClusterID, o.Registerer = "", reg })
	for range 2 {
		r.cloud.AddVolume(fakecloud.Volume{Name: "pvc-1", Size: 1, Metadata: map[string]string{metadata.Cluster: "other"}})
		r.cloud.AddVolume(fakecloud.Volume{Name: "data", Size: 1})
	}
	if vs := r.listAll(t, 0); len(vs) != 4 {
		t.Errorf("%d volumes are listed, want 4", len(vs))
	}
	wantDuplicates(t, reg, 0)
	for range 2 {
		r.cloud.AddVolume(fakecloud.Volume{Name: "pvc-1", Size: 1, Metadata: map[string]string{metadata.Cluster: ""}})
	}
	r.listAll(t, 0)
	wantDuplicates(t, reg, 1)
}

// Two sidecars list at the same time, and each may stop and start again.
func TestDuplicatesAreCountedAcrossInterleavedPasses(t *testing.T) {
	t.Parallel()
	r, reg, _ := countingRig(t, fakecloud.Options{})
	for i := range 9 {
		r.cloud.Add(fakecloud.Volume{Name: fmt.Sprint("pvc-", i%5)}) // 4 duplicates, each on another page
	}
	page := func(token string) (next string) {
		t.Helper()
		_, next, err := r.ListVolumes(t.Context(), volume.Page{Token: token, Max: 2})
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	x := page("")
	_, place, _ := strings.Cut(x, "@")
	x = page(x)
	wantDuplicates(t, reg, -1)
	y := page("")
	x = page(x)
	y = page(y)
	for range 5 { // each breaks off
		page(page(page("")))
	}
	r.cloud.OnCall(fakecloud.ListVolumeDetail, fakecloud.Status(403, "no"))
	if _, _, err := r.ListVolumes(t.Context(), volume.Page{Token: x, Max: 2}); err == nil {
		t.Fatal("no error")
	}
	for x != "" || y != "" {
		if x != "" {
			x = page(x)
		}
		if y != "" {
			y = page(y)
		}
	}
	wantDuplicates(t, reg, 4)
	// A listing that starts in the middle is not complete.
	r.cloud.Add(fakecloud.Volume{Name: "pvc-0"})
	vs := r.listAll(t, 0)
	wantDuplicates(t, reg, 5)
	r.cloud.RemoveVolume(vs[0].ID)
	for token := vs[1].ID + "@" + place; token != ""; token = page(token) {
		wantDuplicates(t, reg, 5)
	}
	wantDuplicates(t, reg, 5)
}

// The pages of ListHealth overlap when a page of Cinder has more impaired volumes than the caller
// asks for.
func TestDuplicatesAreCountedByListHealthWithSmallPages(t *testing.T) {
	t.Parallel()
	r, reg, _ := countingRig(t, fakecloud.Options{ListLimit: 4})
	for i := range 10 {
		r.cloud.Add(fakecloud.Volume{Name: fmt.Sprint("pvc-", i%7), Status: state.ErrorExtending})
	}
	listHealth(t, r.Backend, 1)
	wantDuplicates(t, reg, 3)
}

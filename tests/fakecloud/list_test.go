package fakecloud_test

import (
	"fmt"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestListsHavePagesAndFilters(t *testing.T) {
	c := connect(t, fakecloud.Options{ListLimit: 3})
	for i := range 7 {
		metadata := map[string]string{"cluster": fmt.Sprint(i % 2), "it's": "odd"}
		c.cloud.AddVolume(fakecloud.Volume{Name: fmt.Sprintf("v%d", i), Size: 1, Metadata: metadata})
	}
	count := func(o volumes.ListOpts) int {
		t.Helper()
		pages, err := volumes.List(c.cinder, o).AllPages(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all, err := volumes.ExtractVolumes(pages)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, v := range all {
			seen[v.ID] = true
		}
		if len(seen) != len(all) {
			t.Errorf("got %d volumes on the pages, but only %d different IDs", len(all), len(seen))
		}
		return len(all)
	}
	for want, o := range map[int]volumes.ListOpts{
		7: {},
		4: {Metadata: map[string]string{"cluster": "0"}},
		3: {Metadata: map[string]string{"cluster": "1"}, Status: "available"},
		1: {Name: "v3"},
		0: {Name: "v"},
	} {
		if got := count(o); got != want {
			t.Errorf("%+v: got %d volumes, want %d", o, got, want)
		}
	}
	if n := count(volumes.ListOpts{Limit: 2, Sort: "name:asc"}); n != 7 {
		t.Errorf("on pages of two: got %d volumes, want 7", n)
	}
}

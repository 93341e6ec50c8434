package rbd

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// listAll returns the ids of all pages.
func listAll(t *testing.T, r *rig, size int) (ids []string, pages int) {
	t.Helper()
	token := ""
	for {
		volumes, next, err := r.ListVolumes(t.Context(), volume.Page{Token: token, Max: size})
		check(t, err)
		if size > 0 && len(volumes) > size {
			t.Errorf("a page has %d volumes, want at most %d", len(volumes), size)
		}
		for _, v := range volumes {
			ids = append(ids, v.ID)
		}
		pages++
		if token = next; token == "" {
			return ids, pages
		}
	}
}

func TestListHasTheVolumesOfAllPoolsAndNamespaces(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.CreateNamespace("other", "tenant")
	var want []string
	for i := range 5 {
		want = append(want, r.create(t, request(fmt.Sprint(i))).ID)
		want = append(want, r.create(t, request(fmt.Sprint(i), "pool", "other")).ID)
		want = append(want, r.create(t, request(fmt.Sprint(i), "pool", "other", "radosNamespace", "tenant")).ID)
	}
	slices.Sort(want)
	check(t, r.testPool(t, "volumes", "").Create("csi-vol-by-hand", 1<<20, ceph.ImageOptions{}))
	for size, pages := range map[int]int{0: 1, 1: 15, 4: 4, 5: 3, 15: 1, 16: 1} {
		got, n := listAll(t, r, size)
		slices.Sort(got)
		if !slices.Equal(got, want) || n != pages {
			t.Errorf("size %d: got %d pages with %v, want %d with %v", size, n, got, pages, want)
		}
	}
}

func TestListReadsABoundedNumberOfImages(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	pool := r.testPool(t, "volumes", "")
	for i := range maxImagesPerPage + 1 {
		check(t, pool.Create(fmt.Sprintf("foreign-%04d", i), 1<<20, ceph.ImageOptions{}))
	}
	v := r.create(t, request("x", "volumeNamePrefix", "zz-"))
	r.server.ResetCalls()
	volumes, next, err := r.ListVolumes(t.Context(), volume.Page{})
	if err != nil || len(volumes) != 0 || next == "" {
		t.Errorf("got %d volumes, the token %q, %v", len(volumes), next, err)
	}
	if calls := r.server.Calls(); calls["Pool.Metadata"] != maxImagesPerPage || calls["Pool.OpenID"] != 0 {
		t.Errorf("got the calls %v", calls)
	}
	if got, pages := listAll(t, r, 0); pages != 2 || !slices.Equal(got, []string{v.ID}) {
		t.Errorf("got %v in %d pages", got, pages)
	}
}

func TestListContinuesWhereImagesWereRemoved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 4 {
		r.create(t, request(fmt.Sprint(i)))
	}
	_, next, err := r.ListVolumes(t.Context(), volume.Page{Max: 2})
	check(t, err)
	check(t, r.testPool(t, "volumes", "").Remove("csi-vol-1"))
	check(t, r.testPool(t, "volumes", "").Remove("csi-vol-2"))
	volumes, next, err := r.ListVolumes(t.Context(), volume.Page{Token: next})
	if err != nil || len(volumes) != 1 || volumes[0].ID != "a/volumes/csi-vol-3" || next != "" {
		t.Errorf("got %+v, %q, %v", volumes, next, err)
	}
	_, _, err = r.ListVolumes(t.Context(), volume.Page{Token: "x"})
	volumetest.WantKind(t, err, volume.KindStale)
}

// A part of the listing would make Kubernetes take the other volumes for detached.
func TestListFailsIfAClusterDoesNotAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(t, request("x"))
	config := r.config["a"]
	config.ID = "b"
	r.config["b"] = config
	_, _, err := r.ListVolumes(t.Context(), volume.Page{})
	volumetest.WantKind(t, err, volume.KindUnavailable, "cluster b")
}

func TestListSkipsPoolsThatTheUserMayNotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.create(t, request("x"))
	r.server.Inject(fakeceph.Fault{Call: "Pool.Namespaces", IsLast: true, Errno: unix.EPERM}) // of ecdata
	r.server.Inject(fakeceph.Fault{Call: "Pool.List", IsLast: true, Errno: unix.EPERM})       // of other
	if got, _ := listAll(t, r, 0); len(got) != 1 {
		t.Errorf("got %v", got)
	}
}

// The connection is fenced in the middle: the page is read again and has each volume once.
func TestListIsRepeatedOnANewConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 4 {
		r.create(t, request(fmt.Sprint(i)))
	}
	r.server.Inject(fakeceph.Fault{Call: "Pool.OpenID", Nth: 3, IsLast: true, IsFencing: true})
	if got, _ := listAll(t, r, 0); len(got) != 4 {
		t.Errorf("got %v", got)
	}
}

func TestListHealthHasTheVolumesWithDefects(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 4 {
		r.create(t, request(fmt.Sprint(i)))
		r.create(t, request(fmt.Sprint(i), "pool", "other"))
	}
	r.server.SetObjectMapInvalid("volumes", "", "csi-vol-2", true)
	r.server.SetFull("other", "full_quota")
	r.server.ResetCalls()
	health, next, err := r.ListHealth(t.Context(), volume.Page{})
	check(t, err)
	if len(health) != 5 || next != "" {
		t.Errorf("got %+v, %q", health, next)
	}
	if got := r.server.Calls()["Cluster.PoolUsage"]; got != 2 {
		t.Errorf("the space of pools was read %d times, want once for each of 2", got)
	}
	for _, h := range health {
		if alone, err := r.Health(t.Context(), h.ID); err != nil || !slices.Equal(alone, h.Conditions) {
			t.Errorf("%s: Health has %v, %v, ListHealth %v", h.ID, alone, err, h.Conditions)
		}
	}
	if health, next, err = r.ListHealth(t.Context(), volume.Page{Max: 2}); err != nil || len(health) != 2 || next == "" {
		t.Errorf("got %+v, %q, %v", health, next, err)
	}
}

package snapshot

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// everything returns the ids of all pages of a listing.
func (r *rig) everything(t *testing.T, filter volume.SnapshotFilter, maxEntries int) (ids []string) {
	t.Helper()
	for token := ""; ; {
		page, next, err := r.ListSnapshots(t.Context(), filter, volume.Page{Token: token, Max: maxEntries})
		if err != nil {
			t.Fatal(err)
		}
		if maxEntries > 0 && len(page) > maxEntries {
			t.Errorf("a page of %d entries, want at most %d", len(page), maxEntries)
		}
		for _, s := range page {
			ids = append(ids, s.ID)
		}
		if next == "" {
			return ids
		}
		token = next
	}
}

func TestListSnapshots(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two := r.cloud.Add(fakecloud.Volume{}), r.cloud.Add(fakecloud.Volume{})
	var want, ofOne []string
	for i, id := range []string{one, two, one} {
		s := r.ready(t, cindertest.SnapshotRequest(fmt.Sprintf("s%d", i), id)).ID
		b := r.ready(t, cindertest.SnapshotRequest(fmt.Sprintf("b%d", i), id, "type", "backup")).ID
		want = append(want, s, b)
		if id == one {
			ofOne = append(ofOne, s, b)
		}
	}
	// One of another cluster, and one that exists only for a backup that Cinder is making.
	foreign := newRigOver(t, r.cloud, "other").take(t, cindertest.SnapshotRequest("foreign", one)).ID
	r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
	want = append(want, r.take(t, cindertest.SnapshotRequest("b9", two, "type", "backup")).ID)

	slices.Sort(want)
	for _, maxEntries := range []int{0, 1, 2, 100} {
		got := r.everything(t, volume.SnapshotFilter{}, maxEntries)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v, want %v", maxEntries, got, want)
		}
	}
	got, wantOfOne := r.everything(t, volume.SnapshotFilter{VolumeID: one}, 2), append(ofOne, foreign)
	slices.Sort(got)
	if slices.Sort(wantOfOne); !slices.Equal(got, wantOfOne) {
		t.Errorf("of one volume: %v, want %v", got, wantOfOne)
	}
	for _, id := range append(ofOne, foreign) {
		if got := r.everything(t, volume.SnapshotFilter{SnapshotID: id, VolumeID: one}, 0); !slices.Equal(got, []string{id}) {
			t.Errorf("by id %s: %v", id, got)
		}
		if got := r.everything(t, volume.SnapshotFilter{SnapshotID: id, VolumeID: two}, 0); got != nil {
			t.Errorf("%s is not of %s: %v", id, two, got)
		}
	}
	if got := r.everything(t, volume.SnapshotFilter{SnapshotID: "unknown"}, 0); got != nil {
		t.Errorf("the listing of an unknown id has %v, want nothing", got)
	}
}

func TestListSnapshotsWithAForeignToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for _, token := range []string{
		"unknown", "snapshot:@elsewhere", "tape:@csi", "snapshot:11111111-2222-4333-8444-555555555555@csi",
	} {
		_, _, err := r.ListSnapshots(t.Context(), volume.SnapshotFilter{}, volume.Page{Token: token})
		cindertest.CheckKind(t, err, volume.KindStale)
	}
}

// CSI v1.13: ListSnapshots does not list snapshots that are not cut yet.
func TestListSnapshotsLeavesOutSnapshotsInCreation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.Stuck())
		_, err := r.CreateSnapshot(cindertest.Within(t, time.Second), cindertest.SnapshotRequest("s", id))
		cindertest.CheckKind(t, err, volume.KindDeadline)
		stuck := cindertest.SnapshotsNamed(t, r.clouds, "s")[0].ID
		for _, filter := range []volume.SnapshotFilter{{}, {SnapshotID: stuck}, {VolumeID: id}} {
			page, _, err := r.ListSnapshots(t.Context(), filter, volume.Page{})
			if err != nil || len(page) != 0 {
				t.Errorf("%+v: %+v, %v; want none", filter, page, err)
			}
		}
		r.cloud.SetSnapshotStatus(stuck, "backing-up")
		for _, filter := range []volume.SnapshotFilter{{}, {SnapshotID: stuck}, {VolumeID: id}} {
			page, _, err := r.ListSnapshots(t.Context(), filter, volume.Page{})
			if err != nil || len(page) != 1 || page[0].ID != stuck || page[0].Ready {
				t.Errorf("%+v: %+v, %v; want %s not ready", filter, page, err, stuck)
			}
		}
	})
}

// Some clouds deny backups.
func TestListSnapshotsWorksWithoutBackups(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		s := r.ready(t, cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{})))
		rule := r.cloud.OnCall(
			fakecloud.ListBackupDetail,
			fakecloud.Status(http.StatusForbidden, "Policy doesn't allow backup:get_all to be performed."),
		).Always()
		for _, maxEntries := range []int{0, 1} {
			if got := r.everything(t, volume.SnapshotFilter{}, maxEntries); !slices.Equal(got, []string{s.ID}) {
				t.Errorf("in pages of %d: %v, want %s", maxEntries, got, s.ID)
			}
		}
		if rule.Hits() == 0 {
			t.Error("no request for backups, want one")
		}
		rule.Remove()
		r.cloud.OnCall(fakecloud.ListBackupDetail, cindertest.Broken()).Always()
		_, _, err := r.ListSnapshots(cindertest.Within(t, time.Second), volume.SnapshotFilter{}, volume.Page{})
		cindertest.CheckKind(t, err, volume.KindUnavailable)
	})
}

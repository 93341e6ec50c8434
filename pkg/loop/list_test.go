package loop

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// listAll returns the ids of all entries in pages of this size. It fails the test if a page is
// larger.
func listAll[T any](t *testing.T, size int, list func(volume.Page) ([]T, string, error), id func(T) string) []string {
	t.Helper()
	var ids []string
	for token := ""; ; {
		page, next, err := list(volume.Page{Token: token, Max: size})
		if err != nil || size > 0 && len(page) > size || next != "" && (len(page) == 0 || next == token) {
			t.Fatalf("page after %q: got %d entries, next %q, %v, want at most %d", token, len(page), next, err, size)
		}
		for _, e := range page {
			ids = append(ids, id(e))
		}
		if next == "" {
			return ids
		}
		token = next
	}
}

func TestListVolumesInPages(t *testing.T) {
	b := openBackend(t)
	var want []string
	for i := range 10 {
		want = append(want, createVolume(t, b, fmt.Sprint(i), volume.MiB).ID)
	}
	slices.Sort(want)
	attachVolume(t, b, want[3])
	list := func(p volume.Page) ([]volume.Volume, string, error) { return b.ListVolumes(t.Context(), p) }
	for _, size := range []int{0, 1, 3, 5, 10, 11} {
		if got := listAll(t, size, list, func(v volume.Volume) string { return v.ID }); !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %v, want %v", size, got, want)
		}
	}
	all, _, err := list(volume.Page{})
	if err != nil || len(all[3].Nodes) != 1 || len(all[4].Nodes) != 0 {
		t.Errorf("got %+v, %v, want a node only at the fourth volume", all, err)
	}
	// The deletion of a volume between two pages hides none of the others.
	page, next, err := list(volume.Page{Max: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), page[1].ID); err != nil {
		t.Fatal(err)
	}
	page, _, err = list(volume.Page{Token: next})
	if err != nil || len(page) != 8 || page[0].ID != want[2] {
		t.Errorf("after a deletion: got %d volumes, %v, want 8 from %s on", len(page), err, want[2])
	}
	for _, token := range []string{"x", "!", pageToken(volumedir.Snapshots.ID("s")), pageToken("../x")} {
		_, _, err := list(volume.Page{Token: token})
		volumetest.WantKind(t, err, volume.KindStale, "list again")
	}
}

func TestListSnapshotsByFilterInPages(t *testing.T) {
	b := openBackend(t)
	v, w := createVolume(t, b, "v", volume.MiB), createVolume(t, b, "w", volume.MiB)
	var ofV, all []string
	for i := range 9 {
		from := v
		if i%3 == 0 {
			from = w
		}
		s, err := b.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: fmt.Sprint(i), VolumeID: from.ID})
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, s.ID); i%3 != 0 {
			ofV = append(ofV, s.ID)
		}
	}
	slices.Sort(ofV)
	slices.Sort(all)
	for _, c := range []struct {
		filter volume.SnapshotFilter
		want   []string
	}{
		{volume.SnapshotFilter{}, all},
		{volume.SnapshotFilter{VolumeID: v.ID}, ofV},
		{volume.SnapshotFilter{SnapshotID: all[4]}, all[4:5]},
		{volume.SnapshotFilter{SnapshotID: "none"}, nil},
		{volume.SnapshotFilter{VolumeID: "none"}, nil},
	} {
		for _, size := range []int{0, 1, 2, 6} {
			got := listAll(t, size, func(p volume.Page) ([]volume.Snapshot, string, error) {
				return b.ListSnapshots(t.Context(), c.filter, p)
			}, func(s volume.Snapshot) string { return s.ID })
			if !slices.Equal(got, c.want) {
				t.Errorf("%+v in pages of %d: got %v, want %v", c.filter, size, got, c.want)
			}
		}
	}
}

// A page reads its own volumes and one more, in a directory of any size.
func TestListReadsOnlyVolumesOfPage(t *testing.T) {
	b := openBackend(t)
	const count = 10000
	for i := range count {
		// Volumes without files: to read one would fail the listing.
		if err := os.Mkdir(b.store.Path(volumedir.Volumes, volumedir.Volumes.ID(fmt.Sprint(i))), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ids, err := b.store.ids(volumedir.Volumes)
	if err != nil || len(ids) != count {
		t.Fatalf("got %d ids, %v, want %d", len(ids), err, count)
	}
	for _, id := range ids[:3] {
		f, err := os.Create(b.store.DataPath(volumedir.Volumes, id))
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := b.store.saveJSON(filepath.Join(b.store.Path(volumedir.Volumes, id), volumedir.RecordFile), volumedir.Record{
			Name: id,
		}); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	page, next, err := b.ListVolumes(t.Context(), volume.Page{Max: 2})
	if err != nil || len(page) != 2 || next == "" {
		t.Errorf("got %d volumes, next %q, %v, want 2 and a next page", len(page), next, err)
	}
	t.Logf("a page of 2 out of %d took %s", count, time.Since(started))
}

package controller

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

// The listing has only the impaired volumes, in pages of any size. A page without any names
// the next page.
func TestListHealthHasOnlyImpairedVolumes(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New()
	s := New(fake, Options{})
	list := func(entries int32, token string) (*csi.ControllerListVolumeHealthResponse, error) {
		req := &csi.ControllerListVolumeHealthRequest{MaxEntries: entries, StartingToken: token}
		return s.ControllerListVolumeHealth(t.Context(), req)
	}
	want := []string{}
	for i := range 9 {
		id := createVolume(t, s, fmt.Sprint(i), volume.GiB)
		if i == 1 || i > 6 {
			fake.Impair(id, volume.Condition{Impairment: volume.ImpairmentDataLoss, Reason: "Gone", Message: "restore it"})
			want = append(want, id)
		}
	}
	for _, size := range []int32{0, 1, 2, 3, 9, 10} {
		var got []string
		empty, pages := 0, 0
		for token := ""; ; {
			resp, err := list(size, token)
			if err != nil {
				t.Fatal(err)
			}
			if pages++; len(resp.GetEntries()) == 0 {
				empty++
			}
			if n := len(resp.GetEntries()); size > 0 && n > int(size) {
				t.Errorf("got a page of %d, want at most %d", n, size)
			}
			for _, e := range resp.GetEntries() {
				got = append(got, e.GetVolumeId())
				req := &csi.ControllerGetVolumeHealthRequest{VolumeId: e.GetVolumeId()}
				alone, err := s.ControllerGetVolumeHealth(t.Context(), req)
				if err != nil || alone.GetVolumeHealth().String() != e.String() || len(e.GetHealthStatuses()) != 1 {
					t.Errorf("got %v in the list, %v, %v alone, want the same", e, alone, err)
				}
			}
			if token = resp.GetNextToken(); token == "" {
				break
			}
			if pages > 9 {
				t.Fatal("got more than 9 pages")
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %v, want %v", size, got, want)
		}
		if size == 1 && empty == 0 {
			t.Error("got no empty page, want at least one in this test")
		}
	}
	_, err := list(-1, "")
	volumetest.WantKind(t, err, volume.KindInvalid, "-1")
	_, err = list(0, "invalid")
	volumetest.WantKind(t, err, volume.KindStale, "invalid")
}

// wrongHealthBackend lists more volumes than requested, and one without a condition.
type wrongHealthBackend struct{ *fakebackend.Backend }

func (wrongHealthBackend) ListHealth(context.Context, volume.Page) ([]volume.Health, string, error) {
	conditions := []volume.Condition{{Impairment: volume.ImpairmentDegraded, Reason: "Slow"}}
	return []volume.Health{{ID: "a", Conditions: conditions}, {ID: "b"}, {ID: "c", Conditions: conditions}}, "", nil
}

func TestListHealthChecksBackendAnswer(t *testing.T) {
	t.Parallel()
	s := New(wrongHealthBackend{fakebackend.New()}, Options{})
	resp, err := s.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	if err != nil || len(resp.GetEntries()) != 2 || resp.GetEntries()[1].GetVolumeId() != "c" {
		t.Errorf("got %v, %v, want a and c", resp, err)
	}
	_, err = s.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: 2})
	volumetest.WantKind(t, err, volume.KindInternal, "3", "2")
}

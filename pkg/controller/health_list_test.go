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

// Only impaired volumes are listed, on pages of any size; pages without one
// lead on to the next.
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
				t.Errorf("a page of %d, at most %d were asked for", n, size)
			}
			for _, e := range resp.GetEntries() {
				got = append(got, e.GetVolumeId())
				req := &csi.ControllerGetVolumeHealthRequest{VolumeId: e.GetVolumeId()}
				alone, err := s.ControllerGetVolumeHealth(t.Context(), req)
				if err != nil || alone.GetVolumeHealth().String() != e.String() || len(e.GetHealthStatuses()) != 1 {
					t.Errorf("listed %v, alone %v, %v", e, alone, err)
				}
			}
			if token = resp.GetNextToken(); token == "" {
				break
			}
			if pages > 9 {
				t.Fatal("the listing does not end")
			}
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v, want %v", size, got, want)
		}
		if size == 1 && empty == 0 {
			t.Error("no page was empty: this test has not tried those")
		}
	}
	_, err := list(-1, "")
	volumetest.WantKind(t, err, volume.KindInvalid, "-1")
	_, err = list(0, "rubbish")
	volumetest.WantKind(t, err, volume.KindStale, "rubbish")
}

// wrongHealthBackend lists more than it was asked for, and volumes that nothing is wrong
// with.
type wrongHealthBackend struct{ *fakebackend.Backend }

func (wrongHealthBackend) ListHealth(context.Context, volume.Page) ([]volume.Health, string, error) {
	bad := []volume.Condition{{Impairment: volume.ImpairmentDegraded, Reason: "Slow"}}
	return []volume.Health{{ID: "a", Conditions: bad}, {ID: "b"}, {ID: "c", Conditions: bad}}, "", nil
}

func TestListHealthChecksBackendAnswer(t *testing.T) {
	t.Parallel()
	s := New(wrongHealthBackend{fakebackend.New()}, Options{})
	resp, err := s.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	if err != nil || len(resp.GetEntries()) != 2 || resp.GetEntries()[1].GetVolumeId() != "c" {
		t.Errorf("%v, %v, want a and c", resp, err)
	}
	_, err = s.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: 2})
	volumetest.WantKind(t, err, volume.KindInternal, "3", "2")
}

package controller

import (
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

func TestListVolumesReturnsPages(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	want := make(map[string]bool)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		want[createVolume(t, s, name, volume.GiB)] = true
	}
	if _, err := publish(t, s, "vol-1", "node-1", mountAs(singleWriter)); err != nil {
		t.Fatal(err)
	}
	token, pages := "", 0
	for {
		resp, err := s.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, e := range resp.GetEntries() {
			if !want[e.GetVolume().GetVolumeId()] {
				t.Errorf("got %v twice, or without its creation", e)
			}
			delete(want, e.GetVolume().GetVolumeId())
			if n := len(e.GetStatus().GetPublishedNodeIds()); (n == 1) != (e.GetVolume().GetVolumeId() == "vol-1") {
				t.Errorf("%v: got %d nodes, want one only for vol-1", e, n)
			}
		}
		if token = resp.GetNextToken(); token == "" {
			break
		}
	}
	if len(want) != 0 || pages != 3 {
		t.Errorf("got %d pages without %v, want 3 with all volumes", pages, want)
	}
	_, err := s.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	volumetest.WantKind(t, err, volume.KindInvalid, "-1")
	_, err = s.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: "invalid"})
	volumetest.WantKind(t, err, volume.KindStale, "invalid")
	_, err = s.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: -1})
	volumetest.WantKind(t, err, volume.KindInvalid, "-1")
	_, err = s.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{StartingToken: "invalid"})
	volumetest.WantKind(t, err, volume.KindStale, "invalid")
}

func TestGetCapacity(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	createVolume(t, s, "v", volume.TiB)
	zone := func(z string) *csi.Topology {
		return &csi.Topology{Segments: map[string]string{fakebackend.TopologyKey: z}}
	}
	for name, test := range map[string]struct {
		req  *csi.GetCapacityRequest
		want volume.Size
	}{
		"anywhere":   {&csi.GetCapacityRequest{}, 9 * volume.TiB},
		"in a zone":  {&csi.GetCapacityRequest{AccessibleTopology: zone("a")}, 9 * volume.TiB},
		"in no zone": {&csi.GetCapacityRequest{AccessibleTopology: zone("z")}, 0},
		"possible mode": {
			&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{mountAs(singleWriter)}}, 9 * volume.TiB,
		},
		"impossible mode": {
			&csi.GetCapacityRequest{
				VolumeCapabilities: []*csi.VolumeCapability{mountAs(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)},
			},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, err := s.GetCapacity(t.Context(), test.req)
			if err != nil || resp.GetAvailableCapacity() != test.want.Bytes() {
				t.Fatalf("got %v, %v, want %s", resp, err, test.want)
			}
			if name == "anywhere" && (resp.GetMaximumVolumeSize().GetValue() != volume.TiB.Bytes() ||
				resp.GetMinimumVolumeSize().GetValue() != volume.MiB.Bytes()) {
				t.Errorf("got bounds %v, want 1 MiB and 1 TiB", resp)
			}
		})
	}
	_, err := s.GetCapacity(t.Context(), &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{{}}})
	volumetest.WantKind(t, err, volume.KindInvalid)
}

func TestSnapshotsAreCreatedListedAndDeleted(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	one, two := createVolume(t, s, "1", volume.GiB), createVolume(t, s, "2", volume.GiB)
	create := func(name, source string) (*csi.Snapshot, error) {
		resp, err := s.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
		return resp.GetSnapshot(), err
	}
	first, err := create("s", one)
	if err != nil {
		t.Fatal(err)
	}
	if first.GetSizeBytes() != volume.GiB.Bytes() || !first.GetReadyToUse() || first.GetSourceVolumeId() != one ||
		!first.GetCreationTime().AsTime().Equal(time.Unix(1_700_000_000, 5)) {
		t.Errorf("got %v, want 1 GiB of volume %s, ready", first, one)
	}
	again, err := create("s", one)
	if err != nil || again.GetSnapshotId() != first.GetSnapshotId() {
		t.Errorf("second call: got %v, %v", again, err)
	}
	_, err = create("s", two)
	volumetest.WantKind(t, err, volume.KindAlreadyExists, one)
	_, err = create("t", "vol-9")
	volumetest.WantKind(t, err, volume.KindNotFound, "vol-9")
	_, err = create("", one)
	volumetest.WantKind(t, err, volume.KindInvalid, "name")
	_, err = s.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
		Name: "u", SourceVolumeId: one, AccessibilityRequirements: &csi.TopologyRequirement{},
	})
	volumetest.WantKind(t, err, volume.KindInvalid, "accessibility_requirements")
	if _, err := create("t", two); err != nil {
		t.Fatal(err)
	}
	list, err := s.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SourceVolumeId: one})
	if err != nil || len(list.GetEntries()) != 1 ||
		list.GetEntries()[0].GetSnapshot().GetSnapshotId() != first.GetSnapshotId() {
		t.Errorf("list: got %v, %v", list, err)
	}
	got, err := s.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: first.GetSnapshotId()})
	if err != nil || got.GetSnapshot().GetSnapshotId() != first.GetSnapshotId() {
		t.Errorf("get: got %v, %v", got, err)
	}
	for range 2 {
		if _, err := s.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{
			SnapshotId: first.GetSnapshotId(),
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: first.GetSnapshotId()})
	volumetest.WantKind(t, err, volume.KindNotFound, first.GetSnapshotId())
}

func TestGetCapacityRefusesTopologyOfBackendWithout(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New()
	s := New(struct {
		minimalBackend
		volume.CapacityReporter
	}{minimalBackend{fake}, fake}, Options{})
	_, err := s.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: &csi.Topology{}})
	volumetest.WantKind(t, err, volume.KindInvalid, "accessible_topology")
}

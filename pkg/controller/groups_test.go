package controller

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

func TestGroupSnapshot(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	one, two := createVolume(t, s, "1", volume.GiB), createVolume(t, s, "2", volume.GiB)
	create := func(name string, volumes ...string) (*csi.VolumeGroupSnapshot, error) {
		resp, err := s.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{
			Name: name, SourceVolumeIds: volumes,
		})
		return resp.GetGroupSnapshot(), err
	}
	group, err := create("g", two, one, two)
	if err != nil {
		t.Fatal(err)
	}
	if len(group.GetSnapshots()) != 2 || !group.GetReadyToUse() || group.GetCreationTime() == nil {
		t.Fatalf("got %v, want two snapshots that are ready", group)
	}
	ids := make([]string, 0, 2)
	for _, member := range group.GetSnapshots() {
		if member.GetGroupSnapshotId() != group.GetGroupSnapshotId() {
			t.Errorf("got the group %q of a member, want %q", member.GetGroupSnapshotId(), group.GetGroupSnapshotId())
		}
		ids = append(ids, member.GetSnapshotId())
	}
	again, err := create("g", one, two)
	if err != nil || again.GetGroupSnapshotId() != group.GetGroupSnapshotId() {
		t.Errorf("repeated call: got %v (%v), want the same group snapshot", again, err)
	}
	_, err = create("g", one)
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "g", one)
	_, err = create("missing", one, "gone")
	volumetest.WantKind(t, err, volume.KindNotFound)
	_, err = create("empty")
	volumetest.WantKind(t, err, volume.KindInvalid, "source_volume_ids")
	testGroupMembers(t, s, group.GetGroupSnapshotId(), ids)
}

// testGroupMembers reads and deletes a group snapshot, with wrong and with right members.
func testGroupMembers(t *testing.T, s *Server, id string, ids []string) {
	t.Helper()
	get := func(members ...string) error {
		_, err := s.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{
			GroupSnapshotId: id, SnapshotIds: members,
		})
		return err
	}
	remove := func(members ...string) error {
		_, err := s.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{
			GroupSnapshotId: id, SnapshotIds: members,
		})
		return err
	}
	volumetest.WantKind(t, get(ids[0]), volume.KindInvalid, ids[1])
	volumetest.WantKind(t, remove(ids[0]), volume.KindInvalid, ids[1])
	if err := get(ids[1], ids[0]); err != nil {
		t.Error(err)
	}
	for range 2 { // the second call finds none
		if err := remove(ids...); err != nil {
			t.Error(err)
		}
	}
	volumetest.WantKind(t, get(), volume.KindNotFound, id)
}

func TestGroupAndBlockServicesNeedTheInterfaces(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.Nop{}, Options{})
	_, err := s.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{})
	volumetest.WantKind(t, err, volume.KindUnsupported)
	_, err = s.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{})
	volumetest.WantKind(t, err, volume.KindUnsupported)
	_, err = s.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{})
	volumetest.WantKind(t, err, volume.KindUnsupported)
}

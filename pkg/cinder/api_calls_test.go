package cinder

import (
	"maps"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// Each CSI call makes few API calls besides reading what it waits for.
func TestCallsTakeFewAPICalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	var v volume.Volume
	var snapshot, backup volume.Snapshot
	made := func(name string, source func() volume.Source) func() {
		return func() {
			req := request(name, volume.GiB, nil)
			if source != nil {
				req.Source = source()
			}
			if _, _, err := r.Find(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			v = r.create(t, req)
		}
	}
	type counts = map[fakecloud.Call]int
	list := counts{fakecloud.ListVolumeDetail: 1}
	create := counts{fakecloud.ListVolumeDetail: 1, fakecloud.CreateVolume: 1}
	expand := func() {
		if _, err := r.Expand(t.Context(), v.ID, 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name string
		call func()
		want counts
	}{
		{"create", made("pvc-1", nil), create},
		{"create again", made("pvc-1", nil), list},
		{"clone", made("pvc-2", func() volume.Source { return volume.Source{VolumeID: v.ID} }), create},
		{
			"snapshot", func() { snapshot = r.take(t, cindertest.SnapshotRequest("s", v.ID)) },
			counts{fakecloud.ListSnapshotDetail: 1, fakecloud.CreateSnapshot: 1},
		},
		{
			"snapshot again", func() { r.take(t, cindertest.SnapshotRequest("s", v.ID)) },
			counts{fakecloud.ListSnapshotDetail: 1},
		},
		{"restore", made("pvc-3", func() volume.Source { return volume.Source{SnapshotID: snapshot.ID} }), create},
		{"backup", func() { backup = r.take(t, cindertest.SnapshotRequest("b", v.ID, "type", "backup")) }, counts{
			fakecloud.ListBackupDetail: 1, fakecloud.ListSnapshotDetail: 1, fakecloud.CreateSnapshot: 1,
			fakecloud.CreateBackup: 1, fakecloud.UpdateBackup: 1,
		}},
		{"backup until it is ready", func() { r.ready(t, cindertest.SnapshotRequest("b", v.ID, "type", "backup")) }, nil},
		{
			"backup again", func() { r.take(t, cindertest.SnapshotRequest("b", v.ID, "type", "backup")) },
			counts{fakecloud.ListBackupDetail: 1, fakecloud.ListSnapshotDetail: 1},
		},
		{"restore of a backup", made("pvc-4", func() volume.Source { return volume.Source{SnapshotID: backup.ID} }), create},
		{"expand", expand, counts{fakecloud.ExtendVolume: 1}},
		{"expand again", expand, counts{}},
		{"delete", func() {
			if err := r.Delete(t.Context(), v.ID); err != nil {
				t.Fatal(err)
			}
		}, counts{fakecloud.DeleteVolume: 1}},
	} {
		r.cloud.ClearRequests()
		step.call()
		got := r.cloud.Counts()
		for _, read := range []fakecloud.Call{
			fakecloud.GetVolume, fakecloud.GetSnapshot, fakecloud.GetBackup, fakecloud.CreateToken, fakecloud.Discover,
		} {
			delete(got, read)
		}
		if step.want != nil && !maps.Equal(got, step.want) {
			t.Errorf("%s: %v, want %v", step.name, got, step.want)
		}
	}
}

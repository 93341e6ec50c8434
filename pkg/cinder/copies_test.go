package cinder

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestClone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
	src := r.cloud.Add(fakecloud.Volume{Size: 2, Zone: "west"})
	req := request("pvc-2", 3*volume.GiB, nil)
	req.Source.VolumeID = src
	req.Requisite = []volume.Topology{zone("west")}
	v, err := r.CloneVolume(t.Context(), req)
	if err != nil || v.Source.VolumeID != src || v.Size != 3*volume.GiB || v.Topology[0][cindercsi.TopologyKey] != "west" {
		t.Fatalf("%+v, %v", v, err)
	}
	r.cloud.RemoveVolume(src)
	if again, err := r.CloneVolume(t.Context(), req); err != nil || again.ID != v.ID {
		t.Errorf("without the source: %+v, %v", again, err)
	}
	req.Name = "pvc-3"
	_, err = r.CloneVolume(t.Context(), req)
	cindertest.CheckKind(t, err, volume.KindNotFound, src)
	if len(r.cloud.Volumes()) != 1 {
		t.Errorf("left behind: %+v", r.cloud.Volumes())
	}
}

// A copy is created in the zone of its source. A request for another zone fails and leaves nothing
// behind.
func TestCloneIntoAnotherZone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
	src := r.cloud.Add(fakecloud.Volume{Zone: "west"})
	req := request("pvc-2", volume.GiB, nil)
	req.Source.VolumeID = src
	req.Requisite = []volume.Topology{zone("nova")}
	_, err := r.CloneVolume(t.Context(), req)
	cindertest.CheckKind(t, err, volume.KindExhausted, "west", "nova")
	s := r.ready(t, cindertest.SnapshotRequest("s", src))
	req.Source = volume.Source{SnapshotID: s.ID}
	_, err = r.Restore(t.Context(), req)
	cindertest.CheckKind(t, err, volume.KindExhausted, "west", "nova")
	// Nobody would remove a copy in the wrong zone that is finished after its call.
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 0)
}

// A backup is in no zone: it is restored in the zone of the pod.
func TestRestoreOfABackupIntoAnotherZone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{Zones: []string{"nova", "west"}})
	b := r.ready(t, cindertest.SnapshotRequest("b", r.cloud.Add(fakecloud.Volume{Zone: "nova"}), "type", "backup"))
	req := request("pvc-2", volume.GiB, nil)
	req.Source.SnapshotID = b.ID
	req.Requisite, req.Preferred = []volume.Topology{zone("nova"), zone("west")}, []volume.Topology{zone("west")}
	for range 2 {
		v, err := r.Restore(t.Context(), req)
		if err != nil || v.Topology[0][cindercsi.TopologyKey] != "west" {
			t.Errorf("%+v, %v, want it in west", v, err)
		}
	}
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 1)
}

// What CSI calls a snapshot may be a snapshot or a backup of Cinder.
func TestRestore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		// The source belongs to another cluster: the restored volume gets the metadata of that one.
		src := r.cloud.Add(fakecloud.Volume{Size: 2, Metadata: map[string]string{metadata.Cluster: "other"}})
		c, err := r.clouds.Cloud(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := c.CreateSnapshot(t.Context(), cloud.NewSnapshot{Name: "s", VolumeID: src})
		if err != nil {
			t.Fatal(err)
		}
		backup, err := c.CreateBackup(t.Context(), cloud.NewBackup{Name: "b", VolumeID: src})
		if err != nil {
			t.Fatal(err)
		}
		for state := ""; state != "available"; {
			b, err := c.Backup(t.Context(), backup.ID)
			if err != nil || operation.Sleep(t.Context(), 5*time.Millisecond) != nil {
				t.Fatal(err)
			}
			state = b.Status
		}
		for name, id := range map[string]string{"snapshot": snapshot.ID, "backup": backup.ID} {
			req := request("pvc-"+name, 3*volume.GiB, nil)
			req.Source.SnapshotID = id
			v, err := r.Restore(t.Context(), req)
			if err != nil || v.Size != 3*volume.GiB || v.Source.SnapshotID != id {
				t.Fatalf("%s: %+v, %v", name, v, err)
			}
			if got, _ := r.cloud.Volume(v.ID); got.Metadata[metadata.Cluster] != cindertest.ClusterID {
				t.Errorf("%s: the volume carries the metadata %v", name, got.Metadata)
			}
			if again, err := r.Restore(t.Context(), req); err != nil || again.ID != v.ID || again.Source != v.Source {
				t.Errorf("%s: the repetition made %+v, %v", name, again, err)
			}
		}
		if all := r.listAll(t, 0); len(all) != 2 {
			t.Errorf("%d volumes are listed, want 2", len(all))
		}
		req := request("pvc-x", 3*volume.GiB, nil)
		req.Source.SnapshotID = "no-such-snapshot"
		_, err = r.Restore(t.Context(), req)
		cindertest.CheckKind(t, err, volume.KindNotFound, "no-such-snapshot")
	})
}

// A restore often takes longer than a call: then the volume has the metadata of the other cluster's
// volume until a retry writes its own.
func TestRestoreOfAnotherClustersBackupIsFoundAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	const backup = "6e1a1f0e-0000-4000-8000-000000000000"
	restored := func(pv string) string {
		return r.cloud.Add(fakecloud.Volume{
			Name:     "pvc-1",
			Metadata: map[string]string{metadata.Cluster: "other", metadata.PersistentVolume: pv, metadata.RestoredFrom: backup},
		})
	}
	otherID, ownID := restored("pvc-1"), restored("pvc-0")
	req := request("pvc-1", volume.GiB, nil)
	req.Source.SnapshotID = backup
	for range 2 {
		v, err := r.Restore(t.Context(), req)
		if err != nil || v.ID != ownID {
			t.Fatalf("%+v, %v, want %s", v, err, ownID)
		}
	}
	r.cloud.CheckCalls(t, fakecloud.CreateVolume, 0)
	for id, want := range map[string]string{ownID: cindertest.ClusterID, otherID: "other"} {
		if v, _ := r.cloud.Volume(id); v.Metadata[metadata.Cluster] != want {
			t.Errorf("%+v, want the mark of %s", v, want)
		}
	}
}

// A copy can take longer than a call: nobody would remove one that turns out not to be shareable.
func TestSharedCopiesAreCheckedBeforeTheyAreMade(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	plain := r.cloud.Add(fakecloud.Volume{Type: "rbd"})
	multi := r.cloud.Add(fakecloud.Volume{Type: "rbd-multi", Multiattach: true})
	s := r.ready(t, cindertest.SnapshotRequest("s", plain))
	for name, test := range map[string]struct {
		source  volume.Source
		volType string
		refused bool
	}{
		"a plain volume":                 {volume.Source{VolumeID: plain}, "", true},
		"a plain volume's snapshot":      {volume.Source{SnapshotID: s.ID}, "", true},
		"into a plain type":              {volume.Source{VolumeID: multi}, "rbd", true},
		"a shareable volume":             {volume.Source{VolumeID: multi}, "", false},
		"a snapshot, into a type for it": {volume.Source{SnapshotID: s.ID}, "rbd-multi", false},
	} {
		r.cloud.ClearRequests()
		req := request("pvc-"+name, volume.GiB, map[string]string{class.ParamType: test.volType})
		req.Source = test.source
		access(volume.AccessMultiNodeMultiWriter, true)(&req)
		_, err := r.Create(t.Context(), req)
		if test.refused != volume.IsKind(err, volume.KindInvalid) || !test.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if made := r.cloud.Count(fakecloud.CreateVolume); test.refused && made != 0 {
			t.Errorf("%s: Cinder was asked %d times", name, made)
		}
	}
}

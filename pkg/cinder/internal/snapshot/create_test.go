package snapshot

import (
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// CSI v1.13: CreateSnapshot blocks until the snapshot is cut.
func TestSnapshotIsReadyWhenCinderSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{Size: 3})
		r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.Stuck())
		began := time.Now().Add(-2 * time.Second) // Cinder keeps whole seconds
		for range 2 {                             // the second call joins
			_, err := r.CreateSnapshot(cindertest.Within(t, time.Second), cindertest.SnapshotRequest("s", id))
			cindertest.CheckKind(t, err, volume.KindDeadline, "creating")
		}
		stuck := cindertest.SnapshotsNamed(t, r.clouds, "s")[0].ID
		if got, err := r.GetSnapshot(t.Context(), stuck); err != nil || got.ID != stuck || got.Ready {
			t.Errorf("read %+v, %v; want %s not ready", got, err, stuck)
		}
		r.cloud.Release(stuck)
		s := r.take(t, cindertest.SnapshotRequest("s", id))
		if s.ID != stuck || !s.Ready || s.VolumeID != id || s.Size != 3*volume.GiB || s.Name != "s" ||
			s.Created.Before(began) {
			t.Errorf("%+v, want %s of %s, ready, of 3 GiB, just made", s, stuck, id)
		}
		if again := r.take(t, cindertest.SnapshotRequest("s", id)); again != s {
			t.Errorf("%+v, at first %+v", again, s)
		}
		r.cloud.CheckCalls(t, fakecloud.CreateSnapshot, 1)
	})
}

func TestSnapshotHasTheMetadataOfTheCluster(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	s := r.take(
		t,
		cindertest.SnapshotRequest(
			"s", id, "csi.storage.k8s.io/volumesnapshot/name", "daily", "csi.storage.k8s.io/volumesnapshot/namespace", "db",
			"csi.storage.k8s.io/volumesnapshotcontent/name", "content-1",
		),
	)
	got, _ := r.cloud.Snapshot(s.ID)
	want := map[string]string{
		"cinder.csi.openstack.org/cluster": cindertest.ClusterID, "csi.storage.k8s.io/volumesnapshot/name": "daily",
		"csi.storage.k8s.io/volumesnapshot/namespace": "db", "csi.storage.k8s.io/volumesnapshotcontent/name": "content-1",
	}
	if fmt.Sprint(got.Metadata) != fmt.Sprint(want) || got.Description != "Created by OpenStack Cinder CSI driver" {
		t.Errorf("metadata %v (%s), want %v", got.Metadata, got.Description, want)
	}
}

func TestSnapshotNameOfAnotherVolumeIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two := r.cloud.Add(fakecloud.Volume{}), r.cloud.Add(fakecloud.Volume{})
	for _, kind := range []string{class.TypeSnapshot, class.TypeBackup} {
		s := r.ready(t, cindertest.SnapshotRequest(kind, one, "type", kind))
		_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest(kind, two, "type", kind))
		cindertest.CheckKind(t, err, volume.KindAlreadyExists, s.ID, one)
	}
}

func TestSnapshotThatFailsIsNeverReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.Fails()).Times(2)
	for range 2 {
		_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id))
		cindertest.CheckKind(t, err, volume.KindInternal, "Snapshot failed to create")
		if left := cindertest.SnapshotsNamed(t, r.clouds, "s"); len(left) != 0 {
			t.Errorf("left behind: %+v", left)
		}
	}
	r.ready(t, cindertest.SnapshotRequest("s", id))
	r.cloud.CheckCalls(t, fakecloud.CreateSnapshot, 3)
}

// Nobody knows the id of a snapshot whose answer was lost: if it fails, nobody would delete it, and
// its volume could not be deleted.
func TestFailedSnapshotWithoutAnswerIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.LostReply(), fakecloud.Fails())
		_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id))
		cindertest.CheckKind(t, err, volume.KindUnavailable)
		cindertest.Eventually(
			t, "the snapshot fails", func() bool { return cindertest.SnapshotsNamed(t, r.clouds, "s")[0].Status == state.Error },
		)

		failed := cindertest.SnapshotsNamed(t, r.clouds, "s")[0].ID
		rule := r.cloud.OnCall(fakecloud.DeleteSnapshot, cindertest.Denied()).Always()
		_, err = r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id))
		cindertest.CheckKind(t, err, volume.KindUnavailable, failed, "cannot remove")
		rule.Remove()

		s := r.ready(t, cindertest.SnapshotRequest("s", id))
		if left := cindertest.SnapshotsNamed(t, r.clouds, "s"); len(left) != 1 || s.ID == failed {
			t.Errorf("%+v after %s, and %+v in the cloud; want another snapshot alone", s, failed, left)
		}
		if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		c, err := r.clouds.Cloud(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.DeleteVolume(t.Context(), id); err != nil {
			t.Errorf("the volume cannot be deleted: %v", err)
		}
	})
}

func TestFailedSnapshotOfAnotherClusterIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	foreign := newRigOver(t, r.cloud, "other").ready(t, cindertest.SnapshotRequest("s", id))
	r.cloud.SetSnapshotStatus(foreign.ID, state.Error)
	for range 2 {
		_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id))
		cindertest.CheckKind(t, err, volume.KindInternal, foreign.ID, "delete the snapshot and take another")
	}
	r.cloud.CheckCalls(t, fakecloud.DeleteSnapshot, 0)
}

// After a final error external-snapshotter forgets the VolumeSnapshot, and nobody would delete a
// snapshot that exists.
func TestSnapshotThatExistsNeverEndsInAFinalError(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]fakecloud.Call{
		"by name": fakecloud.ListSnapshotDetail, "by id": fakecloud.GetSnapshot,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				id := r.cloud.Add(fakecloud.Volume{})
				r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.Stuck())
				_, err := r.CreateSnapshot(cindertest.Within(t, time.Second), cindertest.SnapshotRequest("s", id))
				cindertest.CheckKind(t, err, volume.KindDeadline)
				for _, status := range []int{http.StatusForbidden, http.StatusUnauthorized} {
					rule := r.cloud.OnCall(call, fakecloud.Status(status, "no")).Always()
					_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id))
					cindertest.CheckKind(t, err, volume.KindUnavailable)
					rule.Remove()
				}
			})
		})
	}
}

func TestSnapshotOfAVolumeInUse(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"3.70", "3.66", "3.65"} {
		r := newRig(t, fakecloud.Options{CinderMax: version})
		id := r.cloud.Add(cindertest.OnlyInCinder(r.cloud.AddServer("")))
		r.ready(t, cindertest.SnapshotRequest("s", id))
		r.ready(t, cindertest.SnapshotRequest("forced", id, "force-create", "true"))
		_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("unforced", id, "force-create", "false"))
		cindertest.CheckKind(t, err, volume.KindPrecondition, "in use", "force-create")
	}
}

func TestSnapshotIsFoundWhenTheAnswerIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.LostReply())
	_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id))
	cindertest.CheckKind(t, err, volume.KindUnavailable)
	r.ready(t, cindertest.SnapshotRequest("s", id))
	r.cloud.CheckCalls(t, fakecloud.CreateSnapshot, 1)
}

func TestSnapshotOfAnAbsentVolumeFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", "11111111-2222-4333-8444-555555555555"))
	cindertest.CheckKind(t, err, volume.KindNotFound)
	_, err = r.GetSnapshot(t.Context(), "11111111-2222-4333-8444-555555555555")
	cindertest.CheckKind(t, err, volume.KindNotFound, "no snapshot and no backup")
	if err := r.DeleteSnapshot(t.Context(), "11111111-2222-4333-8444-555555555555"); err != nil {
		t.Error(err)
	}
}

func TestSnapshotBeyondTheQuotaIsExhausted(t *testing.T) {
	t.Parallel()
	q := fakecloud.UnlimitedQuota()
	q.Snapshots = 0
	r := newRig(t, fakecloud.Options{Quota: &q})
	_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{})))
	cindertest.CheckKind(t, err, volume.KindExhausted, "napshot")
}

func TestSnapshotClass(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	for _, c := range [][2]string{
		{"type", "tape"},
		{"force-create", "maybe"},
		{"incremental", "often"},
		{"backup-max-duration-seconds-per-gb", "long"},
		{"typ", "backup"},
	} {
		_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id, c[0], c[1]))
		cindertest.CheckKind(t, err, volume.KindInvalid, c[0])
	}
	r.ready(
		t,
		cindertest.SnapshotRequest(
			"s", id, "type", "snapshot", "force-create", "true", "availability", "nova", "incremental", "false",
			"backup-max-duration-seconds-per-gb", "20",
		),
	)
}

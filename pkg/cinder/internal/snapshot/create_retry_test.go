package snapshot

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// A class can change while Cinder takes a snapshot. After a final error nobody would delete the
// snapshot, and its volume could not be deleted.
func TestErrorOfTheClassIsNotFinalWhileTheSnapshotExists(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{class.TypeSnapshot, class.TypeBackup} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				id := r.cloud.Add(fakecloud.Volume{})
				r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.Stuck())
				_, err := r.CreateSnapshot(cindertest.Within(t, time.Second), cindertest.SnapshotRequest("s", id, "type", kind))
				cindertest.CheckKind(t, err, volume.KindDeadline)
				made := cindertest.SnapshotsNamed(t, r.clouds, "s")[0].ID
				_, err = r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id, "tpye", kind))
				cindertest.CheckKind(t, err, volume.KindUnavailable, "tpye", made)
				rule := r.cloud.OnCall(fakecloud.ListSnapshotDetail, fakecloud.Status(http.StatusForbidden, "no")).Always()
				_, err = r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id, "tpye", kind))
				cindertest.CheckKind(t, err, volume.KindUnavailable, "tpye")
				rule.Remove()
				// Snapshots of other volumes do not count.
				_, err = r.CreateSnapshot(
					t.Context(), cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{}), "tpye", kind),
				)
				cindertest.CheckKind(t, err, volume.KindInvalid, "tpye")
			})
		})
	}
}

// A proxy may deliver a request after the next call has looked for the snapshot.
func TestSnapshotRefusalsAreNotFinalWhileALostRequestMayBeCarriedOut(t *testing.T) {
	t.Parallel()
	for kind, call := range map[string]fakecloud.Call{
		class.TypeSnapshot: fakecloud.CreateSnapshot, class.TypeBackup: fakecloud.CreateBackup,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, fakecloud.Options{})
				id := r.cloud.Add(fakecloud.Volume{})
				deliver := make(chan struct{})
				r.cloud.OnCall(call, fakecloud.DeliveredLate(deliver))
				_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), cindertest.SnapshotRequest("s", id, "type", kind))
				cindertest.CheckKind(t, err, volume.KindUnavailable, "504")
				rule := r.cloud.OnCall(call, cindertest.Denied()).Always()
				_, err = r.CreateSnapshot(cindertest.Within(t, 5*time.Second), cindertest.SnapshotRequest("s", id, "type", kind))
				cindertest.CheckKind(t, err, volume.KindUnavailable, "Policy doesn't allow it", "may still be carried out")
				_, err = r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("s", id, "tpye", kind))
				cindertest.CheckKind(t, err, volume.KindUnavailable, "tpye", "may still be carried out")
				// there was no request for this name before
				other := cindertest.SnapshotRequest("other", id, "type", kind)
				_, err = r.CreateSnapshot(cindertest.Within(t, 5*time.Second), other)
				cindertest.CheckKind(t, err, volume.KindDenied)
				rule.Remove()
				close(deliver)
				r.ready(t, cindertest.SnapshotRequest("s", id, "type", kind))
				// The attempt has ended, so that the refusal for another volume is final.
				_, err = r.CreateSnapshot(
					t.Context(), cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{}), "tpye", kind),
				)
				cindertest.CheckKind(t, err, volume.KindInvalid, "tpye")
			})
		})
	}
}

// The deletion of the helper can take longer than the backup.
func TestIDOfABackupWithAHelperIsNotReturnedBeforeThatIsRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		rule := r.cloud.OnCall(
			fakecloud.UpdateBackup,
			fakecloud.Status(http.StatusForbidden, "Policy doesn't allow backup:update to be performed."),
		).Always()
		_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), class)
		cindertest.CheckKind(t, err, volume.KindUnavailable, "backup:update")
		made := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)[0]
		cindertest.Eventually(t, "the backup is complete", func() bool {
			b, _ := r.cloud.Backup(made)
			return b.Status == state.Available
		})
		r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Stuck())
		_, err = r.CreateSnapshot(cindertest.Within(t, 2*time.Second), class)
		cindertest.CheckKind(t, err, volume.KindUnavailable, made, "backup:update")
		rule.Remove()
		s, err := r.CreateSnapshot(cindertest.Within(t, 2*time.Second), class)
		if b, _ := r.cloud.Backup(made); err != nil || s.ID != made || s.Ready || b.Metadata[metadata.Unanswered] != "" {
			t.Errorf("snapshot %+v and error %v of %+v, want it not ready and recorded as returned", s, err, b)
		}
		for _, helper := range cindertest.SnapshotsNamed(t, r.clouds, "b") {
			r.cloud.Release(helper.ID)
		}
		if got := r.ready(t, class); got.ID != made {
			t.Errorf("CreateSnapshot returns %s, want %s", got.ID, made)
		}
	})
}

// external-snapshotter keeps the first id that it gets, whichever backup came first.
func TestBackupWhoseIDWasReturnedIsPreferred(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		c, err := r.clouds.Cloud(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		made := make(map[string]string)
		for _, which := range []string{"late", "given"} {
			m := cindertest.Own()
			if which == "late" {
				m[metadata.Unanswered] = "true"
			}
			b, err := c.CreateBackup(t.Context(), cloud.NewBackup{Name: "b", VolumeID: id, Metadata: m})
			if err != nil {
				t.Fatal(err)
			}
			made[which] = b.ID
			cindertest.Eventually(t, "the backup is complete", func() bool {
				b, _ := r.cloud.Backup(b.ID)
				return b.Status == state.Available
			})
		}
		for range 2 {
			if s := r.take(t, cindertest.SnapshotRequest("b", id, "type", "backup")); s.ID != made["given"] {
				t.Errorf("CreateSnapshot returns %s, want %s, not %s", s.ID, made["given"], made["late"])
			}
		}
	})
}

// Clusters that share a project may share a volume.
func TestFailedBackupOfAnotherClusterIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		c, err := r.clouds.Cloud(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Fails())
		foreign, err := c.CreateBackup(t.Context(), cloud.NewBackup{
			Name: "b", VolumeID: id, Metadata: map[string]string{metadata.Cluster: "other", metadata.Unanswered: "true"},
		})
		if err != nil {
			t.Fatal(err)
		}
		cindertest.Eventually(t, "the backup fails", func() bool {
			b, _ := r.cloud.Backup(foreign.ID)
			return b.Status == state.Error
		})
		_, err = r.CreateSnapshot(cindertest.Within(t, 5*time.Second), cindertest.SnapshotRequest("b", id, "type", "backup"))
		cindertest.CheckKind(t, err, volume.KindInternal, foreign.ID)
		r.cloud.CheckCalls(t, fakecloud.DeleteBackup, 0)
	})
}

package snapshot

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// At each step a crash has the same effect as a lost answer.
func TestBackupContinuesAfterAnInterruption(t *testing.T) {
	t.Parallel()
	for _, call := range []fakecloud.Call{fakecloud.CreateSnapshot, fakecloud.CreateBackup, fakecloud.DeleteSnapshot} {
		for name, fault := range map[string]fakecloud.Fault{"lost": fakecloud.LostReply(), "cut": fakecloud.CutOff()} {
			t.Run(string(call)+" "+name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, fakecloud.Options{})
					id := r.cloud.Add(fakecloud.Volume{})
					rule := r.cloud.OnCall(call, fault)
					class := cindertest.SnapshotRequest("b", id, "type", "backup")
					s, err := r.CreateSnapshot(cindertest.Within(t, 3*time.Second), class)
					if err != nil {
						cindertest.CheckKind(t, err, volume.KindUnavailable)
					} else if s.Ready && rule.Hits() == 0 {
						t.Fatalf("%+v is ready, and %s was not called", s, call)
					}
					r.ready(t, class)
					if rule.Hits() != 1 {
						t.Errorf("the fault hit %d times", rule.Hits())
					}
					if n := cindertest.CountHelpers(t, r.clouds, id); n != 0 {
						t.Errorf("%d snapshots are left behind", n)
					}
					list := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)
					if len(list) != 1 {
						t.Errorf("backups %v, want one", list)
					}
				})
			})
		}
	}
}

func TestBackupWaitsForItsHelperAcrossCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		rule := r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.Slow(1500*time.Millisecond))
		_, err := r.CreateSnapshot(cindertest.Within(t, time.Second), class)
		cindertest.CheckKind(t, err, volume.KindDeadline, "creating")
		r.cloud.CheckCalls(t, fakecloud.CreateBackup, 0)
		r.ready(t, class)
		if rule.Hits() != 1 || r.cloud.Count(fakecloud.CreateSnapshot) != 1 {
			t.Errorf("%d snapshots were taken, want 1", r.cloud.Count(fakecloud.CreateSnapshot))
		}
	})
}

func TestBackupThatFailsIsNeverReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Fails())
		s := r.take(t, class)
		cindertest.Eventually(t, "the backup fails", func() bool {
			b, _ := r.cloud.Backup(s.ID)
			return b.Status == state.Error
		})
		for range 2 {
			_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), class)
			cindertest.CheckKind(t, err, volume.KindInternal, s.ID, "the backup driver failed")
		}
		if n := cindertest.CountHelpers(t, r.clouds, id); n != 0 {
			t.Errorf("%d snapshots are left behind", n)
		}
		if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
			t.Fatal(err)
		}
		r.ready(t, class)
	})
}

// Nobody knows the id of a backup whose answer was lost, so nobody would delete it if it fails.
func TestFailedBackupWithoutAnswerIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.LostReply(), fakecloud.Fails())
		_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), class)
		cindertest.CheckKind(t, err, volume.KindUnavailable)
		failed := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)
		if len(failed) != 1 {
			t.Fatalf("backups %v, want one", failed)
		}
		cindertest.Eventually(t, "the backup fails", func() bool {
			b, _ := r.cloud.Backup(failed[0])
			return b.Status == state.Error
		})

		rule := r.cloud.OnCall(fakecloud.DeleteBackup, cindertest.Denied()).Always()
		_, err = r.CreateSnapshot(cindertest.Within(t, 5*time.Second), class)
		cindertest.CheckKind(t, err, volume.KindUnavailable, failed[0], "cannot remove")
		rule.Remove()

		s := r.ready(t, class)
		if got := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0); len(got) != 1 || got[0] != s.ID ||
			s.ID == failed[0] {
			t.Errorf("%s after %s, and %v in the cloud; want another backup alone", s.ID, failed[0], got)
		}
		if n := cindertest.CountHelpers(t, r.clouds, id); n != 0 {
			t.Errorf("%d snapshots are left behind", n)
		}
	})
}

// A call returns the id only when that is recorded, or when the backup cannot fail any more:
// external-snapshotter keeps the first id for good.
func TestBackupIDIsNotReturnedBeforeThatIsRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(
			fakecloud.UpdateBackup,
			fakecloud.Status(http.StatusForbidden, "Policy doesn't allow backup:update to be performed."),
		).Always()
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
		for range 2 {
			_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), class)
			cindertest.CheckKind(t, err, volume.KindUnavailable, "backup:update")
		}
		r.cloud.CheckCalls(t, fakecloud.CreateBackup, 1)
		made := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)
		r.cloud.Release(made[0])
		if s := r.ready(t, class); s.ID != made[0] {
			t.Errorf("CreateSnapshot returns %s, want %s", s.ID, made[0])
		}
	})
}

func TestBackupOfAnOldCloudKeepsItsID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{CinderMax: "3.42"}) // no metadata of backups
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Fails())
		s := r.take(t, class)
		cindertest.Eventually(t, "the backup fails", func() bool {
			b, _ := r.cloud.Backup(s.ID)
			return b.Status == state.Error
		})
		_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), class)
		cindertest.CheckKind(t, err, volume.KindInternal, s.ID)
	})
}

func TestBackupDeletesOnlyItsHelper(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, other := r.cloud.Add(fakecloud.Volume{}), r.cloud.Add(fakecloud.Volume{})
	class := cindertest.SnapshotRequest("b", id, "type", "backup")
	r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
	s := r.take(t, class)
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, o := range []cloud.NewSnapshot{
		{Name: "b", VolumeID: id}, // of a user
		{Name: "b", VolumeID: id, Metadata: map[string]string{metadata.BackupOf: "another"}},
		{Name: "b", VolumeID: other, Metadata: map[string]string{metadata.BackupOf: "b"}}, // of a backup of another volume
	} {
		made, err := c.CreateSnapshot(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, made.ID)
	}
	r.cloud.Release(s.ID)
	if got := r.ready(t, class); got.ID != s.ID {
		t.Errorf("CreateSnapshot returns %s, want %s", got.ID, s.ID)
	}
	if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range others {
		if _, there := r.cloud.Snapshot(id); !there {
			t.Errorf("the snapshot %s was deleted, which is not the backup's helper", id)
		}
	}
	r.cloud.CheckCalls(t, fakecloud.DeleteSnapshot, 1)
}

func TestBackupStartsAgainWhenItsHelperFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(fakecloud.CreateSnapshot, fakecloud.Fails())
		_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), class)
		cindertest.CheckKind(t, err, volume.KindInternal, "Snapshot failed to create")
		if n := cindertest.CountHelpers(t, r.clouds, id); n != 0 {
			t.Errorf("%d snapshots are left behind", n)
		}
		r.ready(t, class)
	})
}

func TestRefusedBackupLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := fakecloud.UnlimitedQuota()
		q.Backups = 0
		r := newRig(t, fakecloud.Options{Quota: &q})
		id := r.cloud.Add(fakecloud.Volume{})
		_, err := r.CreateSnapshot(cindertest.Within(t, 5*time.Second), cindertest.SnapshotRequest("b", id, "type", "backup"))
		cindertest.CheckKind(t, err, volume.KindExhausted)
		cindertest.Eventually(
			t, "nothing is left behind", func() bool { return cindertest.CountHelpers(t, r.clouds, id) == 0 },
		)
	})
}

func TestBackupDoesNotUseAPlainSnapshot(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	s := r.ready(t, cindertest.SnapshotRequest("same", id))
	_, err := r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("same", id, "type", "backup"))
	cindertest.CheckKind(t, err, volume.KindAlreadyExists, s.ID)
	if _, there := r.cloud.Snapshot(s.ID); !there {
		t.Error("the snapshot has gone")
	}

	r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
	r.take(t, cindertest.SnapshotRequest("b", id, "type", "backup"))
	_, err = r.CreateSnapshot(t.Context(), cindertest.SnapshotRequest("b", id))
	cindertest.CheckKind(t, err, volume.KindAlreadyExists, "for the backup")
}

func TestBackupIsReadyOnlyWithoutItsHelper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
		s := r.take(t, class)
		r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Slow(2*time.Second))
		r.cloud.Release(s.ID)
		got, err := r.CreateSnapshot(cindertest.Within(t, time.Second), class)
		if err != nil || got.ID != s.ID || got.Ready {
			t.Errorf("%+v, %v; want %s not ready", got, err, s.ID)
		}
		r.ready(t, class)
		r.cloud.CheckCalls(t, fakecloud.DeleteSnapshot, 1)
	})
}

// Right after the backup Cinder still has a volume that was made from the helper, and takes the
// deletion back.
func TestBackupWaitsForABusyHelper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
		s := r.take(t, class)
		rule := r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Refused()).Always()
		r.cloud.Release(s.ID)
		_, err := r.CreateSnapshot(cindertest.Within(t, 2*time.Second), class)
		cindertest.CheckKind(t, err, volume.KindInProgress, "complete", "cannot be deleted yet",
			"did not complete the deletion")
		cindertest.CheckKind(
			t, r.DeleteSnapshot(cindertest.Within(t, 2*time.Second), s.ID), volume.KindPrecondition,
			"did not complete the deletion",
		)
		if _, there := r.cloud.Backup(s.ID); !there {
			t.Error("the backup is deleted although its helper still exists")
		}
		rule.Remove()
		r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Refused())
		got, err := r.CreateSnapshot(cindertest.Within(t, 20*time.Second), class)
		if err != nil || got.ID != s.ID || !got.Ready {
			t.Errorf("%+v, %v; want %s ready, for the helper was busy once only", got, err, s.ID)
		}
		if n := cindertest.CountHelpers(t, r.clouds, id); n != 0 {
			t.Errorf("%d snapshots are left behind", n)
		}
	})
}

func TestDeleteBackup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		id := r.cloud.Add(fakecloud.Volume{})
		class := cindertest.SnapshotRequest("b", id, "type", "backup")
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
		s := r.take(t, class)
		cindertest.CheckKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInProgress, "still making the backup")
		r.cloud.Release(s.ID)
		if n := cindertest.CountHelpers(t, r.clouds, id); n != 1 {
			t.Fatalf("%d helpers, want 1", n)
		}
		// The helper is deleted first: without the backup nobody would delete it.
		helper, _ := r.cloud.Backup(s.ID)
		r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Stuck())
		cindertest.CheckKind(
			t, r.DeleteSnapshot(cindertest.Within(t, time.Second), s.ID), volume.KindInProgress,
			"helper snapshot of the backup is still being deleted",
		)
		r.cloud.CheckCalls(t, fakecloud.DeleteBackup, 0)
		r.cloud.Release(helper.SnapshotID)

		r.cloud.OnCall(fakecloud.DeleteBackup, fakecloud.Stuck())
		cindertest.CheckKind(
			t, r.DeleteSnapshot(cindertest.Within(t, time.Second), s.ID), volume.KindDeadline,
			"backup still has the status deleting",
		)
		if n := cindertest.CountHelpers(t, r.clouds, id); n != 0 {
			t.Errorf("%d snapshots are left behind", n)
		}
		cindertest.After(t, 100*time.Millisecond, func() { r.cloud.Release(s.ID) })
		if err := r.DeleteSnapshot(cindertest.Within(t, 5*time.Second), s.ID); err != nil {
			t.Fatal(err)
		}
		if _, there := r.cloud.Backup(s.ID); there {
			t.Error("it is still there")
		}
		r.cloud.CheckCalls(t, fakecloud.DeleteBackup, 1)
		if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestDeleteBackupFailsWhenOthersDependOnIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.cloud.Add(fakecloud.Volume{})
	full := r.ready(t, cindertest.SnapshotRequest("full", id, "type", "backup"))
	r.ready(t, cindertest.SnapshotRequest("more", id, "type", "backup", "incremental", "true"))
	cindertest.CheckKind(t, r.DeleteSnapshot(t.Context(), full.ID), volume.KindPrecondition, "ncremental backups exist")
	r.cloud.OnCall(fakecloud.DeleteBackup, fakecloud.Fails())
	alone := r.ready(t, cindertest.SnapshotRequest("alone", r.cloud.Add(fakecloud.Volume{}), "type", "backup"))
	cindertest.CheckKind(t, r.DeleteSnapshot(t.Context(), alone.ID), volume.KindInternal, "the backup driver failed")
}

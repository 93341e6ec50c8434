package cinder

import (
	"net/http"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// helpers counts the snapshots that are there for backups.
func (r *rig) helpers(t *testing.T, volumeID string) (n int) {
	t.Helper()
	c, err := r.locator.Volume(t.Context(), volumeID)
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := c.Snapshots(t.Context(), cloud.SnapshotPage{VolumeID: volumeID})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Metadata[metadata.BackupOf] != "" {
			n++
		}
	}
	return n
}

func TestBackupIsReadyWhenItIsCompleteAndAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{Zones: []string{"nova", "vault"}})
	id, server := r.inUse(t, 2)
	class := snap("b", id, "type", "backup", "availability", "vault")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	s := r.take(t, class)
	if s.Ready || s.VolumeID != id || s.Size != 2*volume.GiB || s.Name != "b" {
		t.Errorf("%+v, want one of %s that is not ready, of 2 GiB", s, id)
	}
	// Meanwhile the volume is free for everything else, above all to grow.
	r.wantState(t, id, state.InUse)
	if _, err := r.Expand(within(t, 5*time.Second), id, 3*volume.GiB); err != nil {
		t.Error(err)
	}
	r.wantPlugged(t, id, server)
	if again := r.take(t, class); again.ID != s.ID || again.Ready {
		t.Errorf("%+v, want %s not ready", again, s.ID)
	}
	r.cloud.Release(s.ID)
	if got := r.ready(t, class); got.ID != s.ID {
		t.Errorf("%+v, want %s", got, s.ID)
	}
	if n := r.helpers(t, id); n != 0 {
		t.Errorf("%d snapshots are left behind", n)
	}
	b, _ := r.cloud.Backup(s.ID)
	if b.Zone != "vault" || b.Metadata[metadata.Cluster] != cluster {
		t.Errorf("%+v, want it in vault, marked", b)
	}
	if got, err := r.GetSnapshot(t.Context(), s.ID); err != nil || got.ID != s.ID || !got.Ready {
		t.Errorf("read %+v, %v", got, err)
	}
	r.wantCalls(t, fakecloud.CreateBackup, 1)
	r.wantCalls(t, fakecloud.CreateSnapshot, 1)
}

// A crash is as good as an answer that got lost, at each of the steps.
func TestBackupGoesOnFromWhereverItWasBrokenOff(t *testing.T) {
	t.Parallel()
	for _, call := range []fakecloud.Call{fakecloud.CreateSnapshot, fakecloud.CreateBackup, fakecloud.DeleteSnapshot} {
		for name, fault := range map[string]fakecloud.Fault{"lost": fakecloud.LostReply(), "cut": fakecloud.CutOff()} {
			t.Run(string(call)+" "+name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, fakecloud.Options{})
				id := r.add(fakecloud.Volume{})
				rule := r.cloud.On(fakecloud.Match{Call: call}, fault)
				class := snap("b", id, "type", "backup")
				s, err := r.CreateSnapshot(within(t, 3*time.Second), class)
				if err != nil {
					wantKind(t, err, volume.KindUnavailable)
				} else if s.Ready && rule.Hits() == 0 {
					t.Fatalf("%+v is ready, and %s was not called", s, call)
				}
				r.ready(t, class)
				if rule.Hits() != 1 {
					t.Errorf("the fault hit %d times", rule.Hits())
				}
				if n := r.helpers(t, id); n != 0 {
					t.Errorf("%d snapshots are left behind", n)
				}
				list := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)
				if len(list) != 1 {
					t.Errorf("backups %v, want one", list)
				}
			})
		}
	}
}

func TestBackupWaitsForItsHelperAcrossCalls(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	rule := r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.Slow(1500*time.Millisecond))
	_, err := r.CreateSnapshot(within(t, time.Second), class)
	wantKind(t, err, volume.KindDeadline, "creating")
	r.wantCalls(t, fakecloud.CreateBackup, 0)
	r.ready(t, class)
	if rule.Hits() != 1 || r.cloud.Count(fakecloud.CreateSnapshot) != 1 {
		t.Errorf("%d snapshots were taken, want 1", r.cloud.Count(fakecloud.CreateSnapshot))
	}
}

func TestBackupThatFailsIsNeverReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Fails())
	s := r.take(t, class)
	wantSoon(t, "the backup fails", func() bool { b, _ := r.cloud.Backup(s.ID); return b.Status == state.Error })
	for range 2 {
		_, err := r.CreateSnapshot(within(t, 5*time.Second), class)
		wantKind(t, err, volume.KindInternal, s.ID, "the backup driver failed")
	}
	if n := r.helpers(t, id); n != 0 {
		t.Errorf("%d snapshots are left behind", n)
	}
	if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	r.ready(t, class)
}

// Nobody has the id of a backup whose answer was lost: when it has failed it
// would stay for ever.
func TestBackupThatNobodyKnowsAndThatFailedIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.LostReply(), fakecloud.Fails())
	_, err := r.CreateSnapshot(within(t, 5*time.Second), class)
	wantKind(t, err, volume.KindUnavailable)
	failed := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)
	if len(failed) != 1 {
		t.Fatalf("backups %v, want one", failed)
	}
	wantSoon(t, "the backup fails", func() bool { b, _ := r.cloud.Backup(failed[0]); return b.Status == state.Error })

	rule := r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteBackup}, fakecloud.Status(http.StatusForbidden, "Policy doesn't allow it")).Always()
	_, err = r.CreateSnapshot(within(t, 5*time.Second), class)
	wantKind(t, err, volume.KindUnavailable, failed[0], "could not be removed")
	rule.Remove()

	s := r.ready(t, class)
	if got := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0); len(got) != 1 || got[0] != s.ID || s.ID == failed[0] {
		t.Errorf("%s after %s, and %v in the cloud; want another backup alone", s.ID, failed[0], got)
	}
	if n := r.helpers(t, id); n != 0 {
		t.Errorf("%d snapshots are left behind", n)
	}
}

// The id is given away only when that is written down, or the backup can fail no
// more: external-snapshotter keeps the first one for good.
func TestBackupIDIsNotGivenAwayUnnoted(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.UpdateBackup}, fakecloud.Status(http.StatusForbidden, "Policy doesn't allow backup:update to be performed.")).Always()
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	for range 2 {
		_, err := r.CreateSnapshot(within(t, 5*time.Second), class)
		wantKind(t, err, volume.KindUnavailable, "backup:update")
	}
	r.wantCalls(t, fakecloud.CreateBackup, 1)
	made := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)
	r.cloud.Release(made[0])
	if s := r.ready(t, class); s.ID != made[0] {
		t.Errorf("%s, want %s", s.ID, made[0])
	}
}

func TestBackupOfAnOldCloudKeepsItsID(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{CinderMax: "3.42"}) // no metadata of backups
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Fails())
	s := r.take(t, class)
	wantSoon(t, "the backup fails", func() bool { b, _ := r.cloud.Backup(s.ID); return b.Status == state.Error })
	_, err := r.CreateSnapshot(within(t, 5*time.Second), class)
	wantKind(t, err, volume.KindInternal, s.ID)
}

func TestBackupRemovesNoSnapshotButItsHelper(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id, other := r.add(fakecloud.Volume{}), r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	s := r.take(t, class)
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, o := range []cloud.NewSnapshot{
		{Name: "b", VolumeID: id}, // somebody's own
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
		t.Errorf("%s, want %s", got.ID, s.ID)
	}
	if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range others {
		if _, there := r.cloud.Snapshot(id); !there {
			t.Errorf("the snapshot %s was deleted, which is not the backup's helper", id)
		}
	}
	r.wantCalls(t, fakecloud.DeleteSnapshot, 1)
}

func TestBackupWhoseHelperFailsStartsAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.Fails())
	_, err := r.CreateSnapshot(within(t, 5*time.Second), class)
	wantKind(t, err, volume.KindInternal, "Snapshot failed to create")
	if n := r.helpers(t, id); n != 0 {
		t.Errorf("%d snapshots are left behind", n)
	}
	r.ready(t, class)
}

func TestBackupThatCinderRefusesLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	q := fakecloud.UnlimitedQuota()
	q.Backups = 0
	r := newRig(t, fakecloud.Options{Quota: &q})
	id := r.add(fakecloud.Volume{})
	_, err := r.CreateSnapshot(within(t, 5*time.Second), snap("b", id, "type", "backup"))
	wantKind(t, err, volume.KindExhausted)
	wantSoon(t, "nothing is left behind", func() bool { return r.helpers(t, id) == 0 })
}

func TestBackupDoesNotTakeAPlainSnapshotForItsOwn(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	s := r.ready(t, snap("same", id))
	_, err := r.CreateSnapshot(t.Context(), snap("same", id, "type", "backup"))
	wantKind(t, err, volume.KindAlreadyExists, s.ID)
	if _, there := r.cloud.Snapshot(s.ID); !there {
		t.Error("the snapshot has gone")
	}

	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	r.take(t, snap("b", id, "type", "backup"))
	_, err = r.CreateSnapshot(t.Context(), snap("b", id))
	wantKind(t, err, volume.KindAlreadyExists, "for the backup")
}

func TestBackupIsReadyOnlyWithoutItsHelper(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	s := r.take(t, class)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Slow(2*time.Second))
	r.cloud.Release(s.ID)
	got, err := r.CreateSnapshot(within(t, time.Second), class)
	if err != nil || got.ID != s.ID || got.Ready {
		t.Errorf("%+v, %v; want %s not ready", got, err, s.ID)
	}
	r.ready(t, class)
	r.wantCalls(t, fakecloud.DeleteSnapshot, 1)
}

// Right after the backup Cinder still has a volume that was made from the
// helper, and takes the deletion back.
func TestBackupWhoseHelperIsBusy(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	s := r.take(t, class)
	rule := r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Refused()).Always()
	r.cloud.Release(s.ID)
	_, err := r.CreateSnapshot(within(t, 2*time.Second), class)
	wantKind(t, err, volume.KindInProgress, "complete", "cannot be deleted yet", "took it back")
	wantKind(t, r.DeleteSnapshot(within(t, 2*time.Second), s.ID), volume.KindPrecondition, "took it back")
	if _, there := r.cloud.Backup(s.ID); !there {
		t.Error("the backup was deleted, and nobody comes back for its helper")
	}
	rule.Remove()
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Refused())
	got, err := r.CreateSnapshot(within(t, 20*time.Second), class)
	if err != nil || got.ID != s.ID || !got.Ready {
		t.Errorf("%+v, %v; want %s ready, for the helper was busy once only", got, err, s.ID)
	}
	if n := r.helpers(t, id); n != 0 {
		t.Errorf("%d snapshots are left behind", n)
	}
}

func TestDeleteBackup(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	s := r.take(t, class)
	wantKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInProgress, "still making the backup")
	r.cloud.Release(s.ID)
	if n := r.helpers(t, id); n != 1 {
		t.Fatalf("%d helpers, want 1", n)
	}
	// Without the backup nobody would come back for the helper: it goes first.
	helper, _ := r.cloud.Backup(s.ID)
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Stuck())
	wantKind(t, r.DeleteSnapshot(within(t, time.Second), s.ID), volume.KindInProgress, "made from is still being deleted")
	r.wantCalls(t, fakecloud.DeleteBackup, 0)
	r.cloud.Release(helper.SnapshotID)

	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteBackup}, fakecloud.Stuck())
	wantKind(t, r.DeleteSnapshot(within(t, time.Second), s.ID), volume.KindDeadline, "backup is still deleting")
	if n := r.helpers(t, id); n != 0 {
		t.Errorf("%d snapshots are left behind", n)
	}
	eventually(t, 100*time.Millisecond, func() { r.cloud.Release(s.ID) })
	if err := r.DeleteSnapshot(within(t, 5*time.Second), s.ID); err != nil {
		t.Fatal(err)
	}
	if _, there := r.cloud.Backup(s.ID); there {
		t.Error("it is still there")
	}
	r.wantCalls(t, fakecloud.DeleteBackup, 1)
	if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
}

func TestDeleteBackupThatOthersDependOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	full := r.ready(t, snap("full", id, "type", "backup"))
	r.ready(t, snap("more", id, "type", "backup", "incremental", "true"))
	wantKind(t, r.DeleteSnapshot(t.Context(), full.ID), volume.KindPrecondition, "ncremental backups exist")
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteBackup}, fakecloud.Fails())
	alone := r.ready(t, snap("alone", r.add(fakecloud.Volume{}), "type", "backup"))
	wantKind(t, r.DeleteSnapshot(t.Context(), alone.ID), volume.KindInternal, "the backup driver failed")
}

package cinder

import (
	"net/http"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// A class can be changed while a snapshot is made. After a final error nobody would
// delete the snapshot, nor could its volume be deleted.
func TestSnapshotClassThatBecameImpossible(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{class.TypeSnapshot, class.TypeBackup} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.add(fakecloud.Volume{})
			r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.Stuck())
			_, err := r.CreateSnapshot(within(t, time.Second), snap("s", id, "type", kind))
			wantKind(t, err, volume.KindDeadline)
			made := r.snapshotsNamed(t, "s")[0].ID
			_, err = r.CreateSnapshot(t.Context(), snap("s", id, "tpye", kind))
			wantKind(t, err, volume.KindUnavailable, "tpye", made)
			rule := r.cloud.On(fakecloud.Match{Call: fakecloud.ListSnapshotDetail}, fakecloud.Status(http.StatusForbidden, "no")).Always()
			_, err = r.CreateSnapshot(t.Context(), snap("s", id, "tpye", kind))
			wantKind(t, err, volume.KindUnavailable, "tpye")
			rule.Remove()
			// Those of other volumes are no reason.
			_, err = r.CreateSnapshot(t.Context(), snap("s", r.add(fakecloud.Volume{}), "tpye", kind))
			wantKind(t, err, volume.KindInvalid, "tpye")
		})
	}
}

// A proxy can deliver a request after the next call has looked for the snapshot.
func TestSnapshotRefusalsAreNotFinalWhileARequestMayComeLate(t *testing.T) {
	t.Parallel()
	for kind, call := range map[string]fakecloud.Call{class.TypeSnapshot: fakecloud.CreateSnapshot, class.TypeBackup: fakecloud.CreateBackup} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.add(fakecloud.Volume{})
			deliver := make(chan struct{})
			r.cloud.On(fakecloud.Match{Call: call}, fakecloud.DeliveredLate(deliver))
			_, err := r.CreateSnapshot(within(t, 5*time.Second), snap("s", id, "type", kind))
			wantKind(t, err, volume.KindUnavailable, "504")
			rule := r.cloud.On(fakecloud.Match{Call: call}, fakecloud.Status(http.StatusForbidden, "Policy doesn't allow it")).Always()
			_, err = r.CreateSnapshot(within(t, 5*time.Second), snap("s", id, "type", kind))
			wantKind(t, err, volume.KindUnavailable, "Policy doesn't allow it", "may still be carried out")
			_, err = r.CreateSnapshot(t.Context(), snap("s", id, "tpye", kind))
			wantKind(t, err, volume.KindUnavailable, "tpye", "may still be carried out")
			_, err = r.CreateSnapshot(within(t, 5*time.Second), snap("other", id, "type", kind)) // of which nothing was asked for yet
			wantKind(t, err, volume.KindDenied)
			rule.Remove()
			close(deliver)
			r.ready(t, snap("s", id, "type", kind))
			// The attempt has ended, so that the refusal for another volume is final.
			_, err = r.CreateSnapshot(t.Context(), snap("s", r.add(fakecloud.Volume{}), "tpye", kind))
			wantKind(t, err, volume.KindInvalid, "tpye")
		})
	}
}

// The helper can take longer than its backup to go.
func TestIDOfABackupWithAHelperIsNotGivenAwayUnnoted(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	class := snap("b", id, "type", "backup")
	rule := r.cloud.On(fakecloud.Match{Call: fakecloud.UpdateBackup}, fakecloud.Status(http.StatusForbidden, "Policy doesn't allow backup:update to be performed.")).Always()
	_, err := r.CreateSnapshot(within(t, 5*time.Second), class)
	wantKind(t, err, volume.KindUnavailable, "backup:update")
	made := r.everything(t, volume.SnapshotFilter{VolumeID: id}, 0)[0]
	wantSoon(t, "the backup is complete", func() bool { b, _ := r.cloud.Backup(made); return b.Status == state.Available })
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Stuck())
	_, err = r.CreateSnapshot(within(t, 2*time.Second), class)
	wantKind(t, err, volume.KindUnavailable, made, "backup:update")
	rule.Remove()
	s, err := r.CreateSnapshot(within(t, 2*time.Second), class)
	if b, _ := r.cloud.Backup(made); err != nil || s.ID != made || s.Ready || b.Metadata[metadata.Unanswered] != "" {
		t.Errorf("%+v, %v, of %+v; want it not ready, and noted as given away", s, err, b)
	}
	for _, helper := range r.snapshotsNamed(t, "b") {
		r.cloud.Release(helper.ID)
	}
	if got := r.ready(t, class); got.ID != made {
		t.Errorf("%s, want %s", got.ID, made)
	}
}

// external-snapshotter keeps the first id that it gets, whichever backup came first.
func TestBackupWhoseIDWasGivenAwayIsPreferred(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	made := make(map[string]string)
	for _, which := range []string{"late", "given"} {
		m := map[string]string{metadata.Cluster: cluster}
		if which == "late" {
			m[metadata.Unanswered] = "true"
		}
		b, err := c.CreateBackup(t.Context(), cloud.NewBackup{Name: "b", VolumeID: id, Metadata: m})
		if err != nil {
			t.Fatal(err)
		}
		made[which] = b.ID
		wantSoon(t, "the backup is complete", func() bool { b, _ := r.cloud.Backup(b.ID); return b.Status == state.Available })
	}
	for range 2 {
		if s := r.take(t, snap("b", id, "type", "backup")); s.ID != made["given"] {
			t.Errorf("%s, want %s, not %s", s.ID, made["given"], made["late"])
		}
	}
}

// Clusters that share a project may share a volume.
func TestBackupOfAnotherClusterThatFailedIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Fails())
	foreign, err := c.CreateBackup(t.Context(), cloud.NewBackup{
		Name: "b", VolumeID: id, Metadata: map[string]string{metadata.Cluster: "other", metadata.Unanswered: "true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSoon(t, "the backup fails", func() bool { b, _ := r.cloud.Backup(foreign.ID); return b.Status == state.Error })
	_, err = r.CreateSnapshot(within(t, 5*time.Second), snap("b", id, "type", "backup"))
	wantKind(t, err, volume.KindInternal, foreign.ID)
	r.wantCalls(t, fakecloud.DeleteBackup, 0)
}

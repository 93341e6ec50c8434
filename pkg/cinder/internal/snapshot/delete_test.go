package snapshot

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func TestDeleteSnapshotWaitsUntilItIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		s := r.ready(t, cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{})))
		r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Stuck())
		for range 2 { // the second call joins
			cindertest.CheckKind(t, r.DeleteSnapshot(cindertest.Within(t, time.Second), s.ID), volume.KindDeadline, "deleting")
		}
		cindertest.After(t, 100*time.Millisecond, func() { r.cloud.Release(s.ID) })
		if err := r.DeleteSnapshot(cindertest.Within(t, 5*time.Second), s.ID); err != nil {
			t.Fatal(err)
		}
		if _, there := r.cloud.Snapshot(s.ID); there {
			t.Error("it is still there")
		}
		r.cloud.CheckCalls(t, fakecloud.DeleteSnapshot, 1)
	})
}

func TestDeleteSnapshotFailsWhenVolumesDependOnIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	s := r.ready(t, cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{})))
	r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Refused())
	cindertest.CheckKind(
		t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindPrecondition, "did not complete the deletion",
		"volumes that were created from this snapshot",
	)
	r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Status(400, "Invalid snapshot: snapshot is in use by volumes"))
	cindertest.CheckKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindPrecondition, "in use by volumes")
	r.cloud.OnCall(fakecloud.DeleteSnapshot, fakecloud.Fails())
	cindertest.CheckKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInternal, "delete --force")
	r.cloud.ClearRequests()
	cindertest.CheckKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInternal, "delete --force")
	r.cloud.CheckCalls(t, fakecloud.DeleteSnapshot, 0)
}

func TestDeleteSnapshotOfABusySnapshotIsRetried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		s := r.ready(t, cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{})))
		r.cloud.SetSnapshotStatus(s.ID, "backing-up")
		cindertest.CheckKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInProgress, "backing-up")
		r.cloud.SetSnapshotStatus(s.ID, state.Creating)
		cindertest.After(t, 100*time.Millisecond, func() { r.cloud.SetSnapshotStatus(s.ID, state.Available) })
		if err := r.DeleteSnapshot(cindertest.Within(t, 5*time.Second), s.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestDeleteSnapshotFailsWhenCinderDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{})
		s := r.ready(t, cindertest.SnapshotRequest("s", r.cloud.Add(fakecloud.Volume{}), "type", "backup"))
		r.cloud.OnCall(fakecloud.GetBackup, fakecloud.Status(503, "")).Always()
		cindertest.CheckKind(t, r.DeleteSnapshot(cindertest.Within(t, 2*time.Second), s.ID), volume.KindUnavailable)
		if _, there := r.cloud.Backup(s.ID); !there {
			t.Error("the backup has gone")
		}
	})
}

// Some clouds deny backups. A snapshot that is gone is still gone.
func TestDeleteSnapshotWhereBackupsAreForbidden(t *testing.T) {
	t.Parallel()
	const forbidden = "Policy doesn't allow backup:get to be performed."
	for name, test := range map[string]struct {
		fault fakecloud.Fault
		only  bool // the backup of this id alone
		kind  volume.Kind
		gone  bool
	}{
		"forbidden whatever the id": {fault: fakecloud.Status(http.StatusForbidden, forbidden), gone: true},
		"another service answers": {
			fault: fakecloud.Status(http.StatusNotFound, "The resource could not be found."), kind: volume.KindUnavailable,
		},
		"forbidden, so the backup is": {
			fault: fakecloud.Status(http.StatusForbidden, forbidden), only: true, kind: volume.KindDenied,
		},
		"silent": {
			fault: fakecloud.Status(http.StatusServiceUnavailable, "later"), kind: volume.KindUnavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := new(cindertest.Text)
				r := newRig(t, fakecloud.Options{}).withLog(log)
				id := r.cloud.Add(fakecloud.Volume{})
				gone := r.ready(t, cindertest.SnapshotRequest("s", id))
				backup := r.ready(t, cindertest.SnapshotRequest("b", id, "type", "backup"))
				if err := r.DeleteSnapshot(t.Context(), gone.ID); err != nil {
					t.Fatal(err)
				}
				asked, match := gone.ID, fakecloud.Match{Call: fakecloud.GetBackup}
				if test.only {
					asked, match.Path = backup.ID, regexp.MustCompile(backup.ID)
				}
				r.cloud.On(match, test.fault).Always()
				err := r.DeleteSnapshot(cindertest.Within(t, 3*time.Second), asked)
				if !test.gone {
					cindertest.CheckKind(t, err, test.kind, asked)
				} else if err != nil || !strings.Contains(log.String(), "openstack volume backup delete "+asked) {
					t.Errorf("%v, want success and a warning: %s", err, log)
				}
				if _, there := r.cloud.Backup(backup.ID); !there {
					t.Error("the backup has gone")
				}
			})
		})
	}
}

package cinder

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

func snap(name, volumeID string, class ...string) volume.SnapshotRequest {
	parameters := make(map[string]string)
	for i := 0; i+1 < len(class); i += 2 {
		parameters[class[i]] = class[i+1]
	}
	return volume.SnapshotRequest{Name: name, VolumeID: volumeID, Parameters: parameters}
}

// take asks for a snapshot once.
func (r *rig) take(t *testing.T, req volume.SnapshotRequest) volume.Snapshot {
	t.Helper()
	s, err := r.CreateSnapshot(within(t, 10*time.Second), req)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ready asks for a snapshot until it is ready, as external-snapshotter does.
func (r *rig) ready(t *testing.T, req volume.SnapshotRequest) volume.Snapshot {
	t.Helper()
	ctx := within(t, 10*time.Second)
	first := r.take(t, req)
	for s := first; ; s = r.take(t, req) {
		if s.ID != first.ID {
			t.Fatalf("the id has changed from %s to %s", first.ID, s.ID)
		}
		if s.Ready {
			return s
		}
		if err := operation.Sleep(ctx, 20*time.Millisecond); err != nil {
			t.Fatalf("%+v does not get ready", s)
		}
	}
}

// snapshotsNamed returns the volume's snapshots of a name as Cinder has them.
func (r *rig) snapshotsNamed(t *testing.T, name string) []cloud.Snapshot {
	t.Helper()
	c, err := r.clouds.Cloud(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.SnapshotsNamed(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// CSI v1.13: CreateSnapshot blocks until the snapshot is cut.
func TestSnapshotIsReadyWhenCinderSaysSo(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{Size: 3})
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.Stuck())
	began := time.Now().Add(-2 * time.Second) // Cinder keeps whole seconds
	for range 2 {                             // the second call joins
		_, err := r.CreateSnapshot(within(t, time.Second), snap("s", id))
		wantKind(t, err, volume.KindDeadline, "creating")
	}
	stuck := r.snapshotsNamed(t, "s")[0].ID
	if got, err := r.GetSnapshot(t.Context(), stuck); err != nil || got.ID != stuck || got.Ready {
		t.Errorf("read %+v, %v; want %s not ready", got, err, stuck)
	}
	r.cloud.Release(stuck)
	s := r.take(t, snap("s", id))
	if s.ID != stuck || !s.Ready || s.VolumeID != id || s.Size != 3*volume.GiB || s.Name != "s" || s.Created.Before(began) {
		t.Errorf("%+v, want %s of %s, ready, of 3 GiB, just made", s, stuck, id)
	}
	if again := r.take(t, snap("s", id)); again != s {
		t.Errorf("%+v, at first %+v", again, s)
	}
	r.wantCalls(t, fakecloud.CreateSnapshot, 1)
}

func TestSnapshotIsMarked(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	s := r.take(t, snap("s", id, "csi.storage.k8s.io/volumesnapshot/name", "daily", "csi.storage.k8s.io/volumesnapshot/namespace", "db", "csi.storage.k8s.io/volumesnapshotcontent/name", "content-1"))
	got, _ := r.cloud.Snapshot(s.ID)
	want := map[string]string{
		"cinder.csi.openstack.org/cluster": cluster, "csi.storage.k8s.io/volumesnapshot/name": "daily",
		"csi.storage.k8s.io/volumesnapshot/namespace": "db", "csi.storage.k8s.io/volumesnapshotcontent/name": "content-1",
	}
	if fmt.Sprint(got.Metadata) != fmt.Sprint(want) || got.Description != "Created by OpenStack Cinder CSI driver" {
		t.Errorf("metadata %v (%s), want %v", got.Metadata, got.Description, want)
	}
}

func TestSnapshotNameOfAnotherVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two := r.add(fakecloud.Volume{}), r.add(fakecloud.Volume{})
	for _, kind := range []string{class.TypeSnapshot, class.TypeBackup} {
		s := r.ready(t, snap(kind, one, "type", kind))
		_, err := r.CreateSnapshot(t.Context(), snap(kind, two, "type", kind))
		wantKind(t, err, volume.KindAlreadyExists, s.ID, one)
	}
}

func TestSnapshotThatFailsIsNeverReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.Fails()).Times(2)
	for range 2 {
		_, err := r.CreateSnapshot(t.Context(), snap("s", id))
		wantKind(t, err, volume.KindInternal, "Snapshot failed to create")
		if left := r.snapshotsNamed(t, "s"); len(left) != 0 {
			t.Errorf("left behind: %+v", left)
		}
	}
	r.ready(t, snap("s", id))
	r.wantCalls(t, fakecloud.CreateSnapshot, 3)
}

// Nobody has the id of a snapshot whose answer was lost: when it has failed it
// would stay for ever, and its volume with it.
func TestSnapshotThatNobodyKnowsAndThatFailedIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.LostReply(), fakecloud.Fails())
	_, err := r.CreateSnapshot(t.Context(), snap("s", id))
	wantKind(t, err, volume.KindUnavailable)
	wantSoon(t, "the snapshot fails", func() bool { return r.snapshotsNamed(t, "s")[0].Status == state.Error })

	failed := r.snapshotsNamed(t, "s")[0].ID
	rule := r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Status(http.StatusForbidden, "Policy doesn't allow it")).Always()
	_, err = r.CreateSnapshot(t.Context(), snap("s", id))
	wantKind(t, err, volume.KindUnavailable, failed, "could not be removed")
	rule.Remove()

	s := r.ready(t, snap("s", id))
	if left := r.snapshotsNamed(t, "s"); len(left) != 1 || s.ID == failed {
		t.Errorf("%+v after %s, and %+v in the cloud; want another snapshot alone", s, failed, left)
	}
	if err := r.DeleteSnapshot(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), id); err != nil {
		t.Errorf("the volume cannot be deleted: %v", err)
	}
}

func TestSnapshotOfAnotherClusterThatFailedIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	foreign := newRigOver(t, r.cloud, func(o *Options) { o.ClusterID = "other" }).ready(t, snap("s", id))
	r.cloud.SetSnapshotStatus(foreign.ID, state.Error)
	for range 2 {
		_, err := r.CreateSnapshot(t.Context(), snap("s", id))
		wantKind(t, err, volume.KindInternal, foreign.ID, "delete the snapshot and take another")
	}
	r.wantCalls(t, fakecloud.DeleteSnapshot, 0)
}

// After an error of a final kind external-snapshotter lets the VolumeSnapshot
// go, and nobody would delete a snapshot that exists.
func TestSnapshotThatExistsNeverEndsInAFinalError(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]fakecloud.Call{"by name": fakecloud.ListSnapshotDetail, "by id": fakecloud.GetSnapshot} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, fakecloud.Options{})
			id := r.add(fakecloud.Volume{})
			r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.Stuck())
			_, err := r.CreateSnapshot(within(t, time.Second), snap("s", id))
			wantKind(t, err, volume.KindDeadline)
			for _, status := range []int{http.StatusForbidden, http.StatusUnauthorized} {
				rule := r.cloud.On(fakecloud.Match{Call: call}, fakecloud.Status(status, "no")).Always()
				_, err := r.CreateSnapshot(t.Context(), snap("s", id))
				wantKind(t, err, volume.KindUnavailable)
				rule.Remove()
			}
		})
	}
}

func TestSnapshotOfAVolumeInUse(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"3.70", "3.66", "3.65"} {
		r := newRig(t, fakecloud.Options{CinderMax: version})
		id, _ := r.inUse(t, 1)
		r.ready(t, snap("s", id))
		r.ready(t, snap("forced", id, "force-create", "true"))
		_, err := r.CreateSnapshot(t.Context(), snap("unforced", id, "force-create", "false"))
		wantKind(t, err, volume.KindPrecondition, "in use", "force-create")
	}
}

func TestSnapshotWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.LostReply())
	_, err := r.CreateSnapshot(t.Context(), snap("s", id))
	wantKind(t, err, volume.KindUnavailable)
	r.ready(t, snap("s", id))
	r.wantCalls(t, fakecloud.CreateSnapshot, 1)
}

func TestSnapshotOfNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	_, err := r.CreateSnapshot(t.Context(), snap("s", "11111111-2222-4333-8444-555555555555"))
	wantKind(t, err, volume.KindNotFound)
	_, err = r.GetSnapshot(t.Context(), "11111111-2222-4333-8444-555555555555")
	wantKind(t, err, volume.KindNotFound, "no snapshot and no backup")
	if err := r.DeleteSnapshot(t.Context(), "11111111-2222-4333-8444-555555555555"); err != nil {
		t.Error(err)
	}
}

func TestSnapshotBeyondTheQuota(t *testing.T) {
	t.Parallel()
	q := fakecloud.UnlimitedQuota()
	q.Snapshots = 0
	r := newRig(t, fakecloud.Options{Quota: &q})
	_, err := r.CreateSnapshot(t.Context(), snap("s", r.add(fakecloud.Volume{})))
	wantKind(t, err, volume.KindExhausted, "napshot")
}

func TestSnapshotClass(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	for _, c := range [][2]string{{"type", "tape"}, {"force-create", "maybe"}, {"incremental", "often"}, {"backup-max-duration-seconds-per-gb", "long"}, {"typ", "backup"}} {
		_, err := r.CreateSnapshot(t.Context(), snap("s", id, c[0], c[1]))
		wantKind(t, err, volume.KindInvalid, c[0])
	}
	r.ready(t, snap("s", id, "type", "snapshot", "force-create", "true", "availability", "nova", "incremental", "false", "backup-max-duration-seconds-per-gb", "20"))
}

func TestDeleteSnapshotWaitsUntilItIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	s := r.ready(t, snap("s", r.add(fakecloud.Volume{})))
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Stuck())
	for range 2 { // the second call joins
		wantKind(t, r.DeleteSnapshot(within(t, time.Second), s.ID), volume.KindDeadline, "deleting")
	}
	eventually(t, 100*time.Millisecond, func() { r.cloud.Release(s.ID) })
	if err := r.DeleteSnapshot(within(t, 5*time.Second), s.ID); err != nil {
		t.Fatal(err)
	}
	if _, there := r.cloud.Snapshot(s.ID); there {
		t.Error("it is still there")
	}
	r.wantCalls(t, fakecloud.DeleteSnapshot, 1)
}

func TestDeleteSnapshotThatIsInUse(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	s := r.ready(t, snap("s", r.add(fakecloud.Volume{})))
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Refused())
	wantKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindPrecondition, "took it back", "volumes that were made from it")
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Status(400, "Invalid snapshot: snapshot is in use by volumes"))
	wantKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindPrecondition, "in use by volumes")
	r.cloud.On(fakecloud.Match{Call: fakecloud.DeleteSnapshot}, fakecloud.Fails())
	wantKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInternal, "delete --force")
	r.cloud.ClearRequests()
	wantKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInternal, "delete --force")
	r.wantCalls(t, fakecloud.DeleteSnapshot, 0)
}

func TestDeleteSnapshotThatIsBusy(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	s := r.ready(t, snap("s", r.add(fakecloud.Volume{})))
	r.cloud.SetSnapshotStatus(s.ID, "backing-up")
	wantKind(t, r.DeleteSnapshot(t.Context(), s.ID), volume.KindInProgress, "backing-up")
	r.cloud.SetSnapshotStatus(s.ID, state.Creating)
	eventually(t, 100*time.Millisecond, func() { r.cloud.SetSnapshotStatus(s.ID, state.Available) })
	if err := r.DeleteSnapshot(within(t, 5*time.Second), s.ID); err != nil {
		t.Error(err)
	}
}

func TestDeleteSnapshotDoesNotTakeSilenceForAbsence(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	s := r.ready(t, snap("s", r.add(fakecloud.Volume{}), "type", "backup"))
	r.cloud.On(fakecloud.Match{Call: fakecloud.GetBackup}, fakecloud.Status(503, "")).Always()
	wantKind(t, r.DeleteSnapshot(within(t, 2*time.Second), s.ID), volume.KindUnavailable)
	if _, there := r.cloud.Backup(s.ID); !there {
		t.Error("the backup has gone")
	}
}

// The policy of some clouds leaves backups to others. The snapshot is gone even so.
func TestDeleteSnapshotWhereBackupsAreForbidden(t *testing.T) {
	t.Parallel()
	const forbidden = "Policy doesn't allow backup:get to be performed."
	for name, test := range map[string]struct {
		fault fakecloud.Fault
		only  bool // the backup of this id alone
		kind  volume.Kind
		gone  bool
	}{
		"forbidden whatever the id":   {fault: fakecloud.Status(http.StatusForbidden, forbidden), gone: true},
		"another service answers":     {fault: fakecloud.Status(http.StatusNotFound, "The resource could not be found."), kind: volume.KindUnavailable},
		"forbidden, so the backup is": {fault: fakecloud.Status(http.StatusForbidden, forbidden), only: true, kind: volume.KindDenied},
		"silent":                      {fault: fakecloud.Status(http.StatusServiceUnavailable, "later"), kind: volume.KindUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := new(safeText)
			r := newRig(t, fakecloud.Options{}, withLog(log))
			id := r.add(fakecloud.Volume{})
			gone, backup := r.ready(t, snap("s", id)), r.ready(t, snap("b", id, "type", "backup"))
			if err := r.DeleteSnapshot(t.Context(), gone.ID); err != nil {
				t.Fatal(err)
			}
			asked, match := gone.ID, fakecloud.Match{Call: fakecloud.GetBackup}
			if test.only {
				asked, match.Path = backup.ID, regexp.MustCompile(backup.ID)
			}
			r.cloud.On(match, test.fault).Always()
			err := r.DeleteSnapshot(within(t, 3*time.Second), asked)
			if !test.gone {
				wantKind(t, err, test.kind, asked)
			} else if err != nil || !strings.Contains(log.String(), "openstack volume backup delete "+asked) {
				t.Errorf("%v, want success and a warning: %s", err, log)
			}
			if _, there := r.cloud.Backup(backup.ID); !there {
				t.Error("the backup has gone")
			}
		})
	}
}

// everything lists page by page.
func (r *rig) everything(t *testing.T, filter volume.SnapshotFilter, most int) (ids []string) {
	t.Helper()
	for token := ""; ; {
		page, next, err := r.ListSnapshots(t.Context(), filter, volume.Page{Token: token, Max: most})
		if err != nil {
			t.Fatal(err)
		}
		if most > 0 && len(page) > most {
			t.Errorf("a page of %d entries, want at most %d", len(page), most)
		}
		for _, s := range page {
			ids = append(ids, s.ID)
		}
		if next == "" {
			return ids
		}
		token = next
	}
}

func TestListSnapshots(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	one, two := r.add(fakecloud.Volume{}), r.add(fakecloud.Volume{})
	var want, ofOne []string
	for i, id := range []string{one, two, one} {
		s := r.ready(t, snap(fmt.Sprintf("s%d", i), id)).ID
		b := r.ready(t, snap(fmt.Sprintf("b%d", i), id, "type", "backup")).ID
		want = append(want, s, b)
		if id == one {
			ofOne = append(ofOne, s, b)
		}
	}
	// Another cluster's, and one that is there only for a backup in the making.
	foreign := newRigOver(t, r.cloud, func(o *Options) { o.ClusterID = "other" }).take(t, snap("foreign", one)).ID
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Stuck())
	want = append(want, r.take(t, snap("b9", two, "type", "backup")).ID)

	slices.Sort(want)
	for _, most := range []int{0, 1, 2, 100} {
		got := r.everything(t, volume.SnapshotFilter{}, most)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %v, want %v", most, got, want)
		}
	}
	got, wantOfOne := r.everything(t, volume.SnapshotFilter{VolumeID: one}, 2), append(ofOne, foreign)
	slices.Sort(got)
	if slices.Sort(wantOfOne); !slices.Equal(got, wantOfOne) {
		t.Errorf("of one volume: %v, want %v", got, wantOfOne)
	}
	for _, id := range append(ofOne, foreign) {
		if got := r.everything(t, volume.SnapshotFilter{SnapshotID: id, VolumeID: one}, 0); !slices.Equal(got, []string{id}) {
			t.Errorf("by id %s: %v", id, got)
		}
		if got := r.everything(t, volume.SnapshotFilter{SnapshotID: id, VolumeID: two}, 0); got != nil {
			t.Errorf("%s is not of %s: %v", id, two, got)
		}
	}
	if got := r.everything(t, volume.SnapshotFilter{SnapshotID: "nobody"}, 0); got != nil {
		t.Errorf("nobody: %v", got)
	}
}

func TestListSnapshotsWithAForeignToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	for _, token := range []string{"nonsense", "snapshot:@elsewhere", "tape:@csi", "snapshot:11111111-2222-4333-8444-555555555555@csi"} {
		_, _, err := r.ListSnapshots(t.Context(), volume.SnapshotFilter{}, volume.Page{Token: token})
		wantKind(t, err, volume.KindStale)
	}
}

// CSI v1.13: ListSnapshots does not list what is not cut yet.
func TestListSnapshotsThatAreNotReady(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	id := r.add(fakecloud.Volume{})
	r.cloud.On(fakecloud.Match{Call: fakecloud.CreateSnapshot}, fakecloud.Stuck())
	_, err := r.CreateSnapshot(within(t, time.Second), snap("s", id))
	wantKind(t, err, volume.KindDeadline)
	stuck := r.snapshotsNamed(t, "s")[0].ID
	for _, filter := range []volume.SnapshotFilter{{}, {SnapshotID: stuck}, {VolumeID: id}} {
		page, _, err := r.ListSnapshots(t.Context(), filter, volume.Page{})
		if err != nil || len(page) != 0 {
			t.Errorf("%+v: %+v, %v; want none", filter, page, err)
		}
	}
	r.cloud.SetSnapshotStatus(stuck, "backing-up")
	for _, filter := range []volume.SnapshotFilter{{}, {SnapshotID: stuck}, {VolumeID: id}} {
		page, _, err := r.ListSnapshots(t.Context(), filter, volume.Page{})
		if err != nil || len(page) != 1 || page[0].ID != stuck || page[0].Ready {
			t.Errorf("%+v: %+v, %v; want %s not ready", filter, page, err, stuck)
		}
	}
}

// The policy of some clouds leaves backups to others.
func TestListSnapshotsOfACloudWithoutBackups(t *testing.T) {
	t.Parallel()
	r := newRig(t, fakecloud.Options{})
	s := r.ready(t, snap("s", r.add(fakecloud.Volume{})))
	rule := r.cloud.On(fakecloud.Match{Call: fakecloud.ListBackupDetail}, fakecloud.Status(http.StatusForbidden, "Policy doesn't allow backup:get_all to be performed.")).Always()
	for _, most := range []int{0, 1} {
		if got := r.everything(t, volume.SnapshotFilter{}, most); !slices.Equal(got, []string{s.ID}) {
			t.Errorf("in pages of %d: %v, want %s", most, got, s.ID)
		}
	}
	if rule.Hits() == 0 {
		t.Error("nobody asked for backups")
	}
	rule.Remove()
	r.cloud.On(fakecloud.Match{Call: fakecloud.ListBackupDetail}, fakecloud.Status(http.StatusInternalServerError, "")).Always()
	_, _, err := r.ListSnapshots(within(t, time.Second), volume.SnapshotFilter{}, volume.Page{})
	wantKind(t, err, volume.KindUnavailable)
}

package cloud

import (
	"testing"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

// awaitAvailable waits until get tells that something is available.
func awaitAvailable(t *testing.T, get func() (status string, err error)) {
	t.Helper()
	for range 500 {
		status, err := get()
		must(t, err)
		if status == "available" {
			return
		}
		must(t, operation.Sleep(t.Context(), 2e6))
	}
	t.Fatal("it did not become available")
}

func TestSnapshots(t *testing.T) {
	for _, newest := range []string{"3.70", "3.65"} { // 3.65 must be told to force it
		r := newRig(t, fakecloud.Options{CinderMax: newest, ListLimit: 2})
		ctx := t.Context()
		v, other := r.volume(t, "pvc-1", 2), r.volume(t, "pvc-2", 1)
		must(t, r.Attach(ctx, r.fake.AddServer(""), v.ID, false))
		r.await(t, v.ID, "in-use")
		var last Snapshot
		for _, name := range []string{"twin", "twin", "twin", "single"} {
			s, err := r.CreateSnapshot(ctx, NewSnapshot{
				Name: name, Description: "d", VolumeID: v.ID,
				Metadata: map[string]string{"k": "v"}, Force: true,
			})
			must(t, err)
			awaitAvailable(t, func() (string, error) { s, err = r.Snapshot(ctx, s.ID); return s.Status, err })
			last = s
		}
		if last.VolumeID != v.ID || last.Size != 2 || last.CreatedAt.IsZero() || last.Metadata["k"] != "v" ||
			last.Name != "single" {
			t.Errorf("the snapshot reads %+v", last)
		}
		if twins, err := r.SnapshotsNamed(ctx, "twin"); err != nil || len(twins) != 3 {
			t.Errorf("%d snapshots of one name (%v), want 3", len(twins), err)
		}
		seen := map[string]bool{}
		for page := (SnapshotPage{VolumeID: v.ID}); ; {
			ss, next, err := r.Snapshots(ctx, page)
			must(t, err)
			for _, s := range ss {
				seen[s.ID] = true
			}
			if page.Marker = next; next == "" {
				break
			}
		}
		if len(seen) != 4 {
			t.Errorf("%d snapshots of the volume in pages, want 4", len(seen))
		}
		if none, _, err := r.Snapshots(ctx, SnapshotPage{VolumeID: other.ID, Limit: 1}); err != nil || len(none) != 0 {
			t.Errorf("another volume has snapshots %v (%v)", none, err)
		}
		_, _, err := r.Snapshots(ctx, SnapshotPage{Marker: absentID})
		volumetest.WantKind(t, err, volume.KindStale, absentID)
		volumetest.WantKind(t, r.DeleteVolume(ctx, v.ID), volume.KindPrecondition)
		must(t, r.DeleteSnapshot(ctx, last.ID))
		volumetest.WantKind(t, r.DeleteSnapshot(ctx, absentID), volume.KindNotFound, "deleting snapshot")
		_, err = r.CreateSnapshot(ctx, NewSnapshot{Name: "x", VolumeID: absentID})
		volumetest.WantKind(t, err, volume.KindNotFound, "taking snapshot x of volume "+absentID)
	}
}

func TestBackups(t *testing.T) {
	for _, newest := range []string{"3.70", "3.42"} { // 3.42 knows no metadata of backups
		r := newRig(t, fakecloud.Options{CinderMax: newest, ListLimit: 1})
		ctx := t.Context()
		v := r.volume(t, "pvc-1", 2)
		var b Backup
		for _, name := range []string{"twin", "twin"} {
			made, err := r.CreateBackup(ctx, NewBackup{Name: name, VolumeID: v.ID, Metadata: map[string]string{"k": "v"}})
			must(t, err)
			awaitAvailable(t, func() (string, error) { b, err = r.Backup(ctx, made.ID); return b.Status, err })
		}
		if b.VolumeID != v.ID || b.Size != 2 || b.Name != "twin" || (MetadataOf(b)["k"] == "v") != (newest == "3.70") {
			t.Errorf("Cinder %s: the backup reads %+v", newest, b)
		}
		if twins, err := r.BackupsNamed(ctx, "twin"); err != nil || len(twins) != 2 {
			t.Errorf("%d backups of one name (%v), want 2", len(twins), err)
		}
		first, next, err := r.Backups(ctx, BackupPage{VolumeID: v.ID, Limit: 1})
		must(t, err)
		rest, _, err := r.Backups(ctx, BackupPage{VolumeID: v.ID, Marker: next})
		must(t, err)
		if len(first) != 1 || len(rest) != 1 || first[0].ID == rest[0].ID {
			t.Errorf("pages %+v and %+v", first, rest)
		}
		_, _, err = r.Backups(ctx, BackupPage{Marker: absentID})
		volumetest.WantKind(t, err, volume.KindStale, absentID)
		restored, err := r.CreateVolume(ctx, NewVolume{Name: "restored", Size: 2, BackupID: b.ID})
		if newest == "3.42" {
			volumetest.WantKind(t, err, volume.KindUnsupported, "3.47", "use snapshots")
			_, err = r.CreateBackup(ctx, NewBackup{Name: "z", VolumeID: v.ID, AvailabilityZone: "z"})
			volumetest.WantKind(t, err, volume.KindUnsupported, "3.51", "remove the parameter availability")
		} else {
			must(t, err)
			if got := r.await(t, restored.ID, "available"); BackupIDOf(got) != b.ID {
				t.Errorf("the restored volume reads %+v", got)
			}
		}
		must(t, r.DeleteBackup(ctx, b.ID))
		volumetest.WantKind(t, r.DeleteBackup(ctx, absentID), volume.KindNotFound, "deleting backup")
	}
}

// The versions of Cinder are not known when the token is refused: the call that is made again
// sends what the versions allow.
func TestMetadataOfABackupIsSentAfterARefusedToken(t *testing.T) {
	r := newRig(t, fakecloud.Options{})
	v := r.volume(t, "pvc-1", 1)
	r.fake.RevokeTokens()
	made, err := r.CreateBackup(t.Context(), NewBackup{Name: "b", VolumeID: v.ID, Metadata: map[string]string{"k": "v"}})
	must(t, err)
	b, err := r.Backup(t.Context(), made.ID)
	must(t, err)
	if MetadataOf(b)["k"] != "v" {
		t.Errorf("the backup has the metadata %v, want k: v", MetadataOf(b))
	}
}

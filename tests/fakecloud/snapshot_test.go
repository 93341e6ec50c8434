package fakecloud_test

import (
	"maps"
	"net/http"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/backups"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/fakecloud"
)

func TestSnapshotIsRestoredAndKeptForItsClone(t *testing.T) {
	c := connect(t, fakecloud.Options{KeepClonedSnapshots: true})
	id := c.createAvailable(2)
	snap, err := snapshots.Create(t.Context(), c.cinder, snapshots.CreateOpts{VolumeID: id, Name: "s"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { s, _ := c.cloud.Snapshot(snap.ID); return s.Status == "available" })
	restored := c.create(volumes.CreateOpts{SnapshotID: snap.ID, Size: 4})
	if v := c.awaitStatus(restored, "available"); v.Size != 4 || v.SnapshotID != snap.ID {
		t.Errorf("got the restored volume %+v", v)
	}
	if err := snapshots.Delete(t.Context(), c.cinder, snap.ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { return len(c.messages(snap.ID)) == 1 })
	if s, ok := c.cloud.Snapshot(snap.ID); !ok || s.Status != "available" {
		t.Errorf("a deleted snapshot with a clone: got found %t and the state %q, want true and available", ok, s.Status)
	}
	c.cloud.RemoveVolume(restored)
	if err := snapshots.Delete(t.Context(), c.cinder, snap.ID).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { _, ok := c.cloud.Snapshot(snap.ID); return !ok })
}

func TestBackupIsRestoredWithItsMetadata(t *testing.T) {
	c := connect(t, fakecloud.Options{})
	id := c.create(volumes.CreateOpts{Size: 2, Name: "source", Metadata: map[string]string{"a": "source"}})
	c.awaitStatus(id, "available")
	full, err := backups.Create(t.Context(), c.cinder, backups.CreateOpts{VolumeID: id, Name: "b"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { b, _ := c.cloud.Backup(full.ID); return b.Status == "available" })
	increment, err := backups.Create(t.Context(), c.cinder, backups.CreateOpts{VolumeID: id, Incremental: true}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { b, _ := c.cloud.Backup(increment.ID); return b.Status == "available" })
	c.wantStatus(backups.Delete(t.Context(), c.cinder, full.ID).ExtractErr(), http.StatusBadRequest)
	restored := c.create(volumes.CreateOpts{
		BackupID: full.ID,
		Size:     3,
		Name:     "restored",
		Metadata: map[string]string{"b": "lost"},
	})
	v := c.awaitStatus(restored, "available")
	metadata := map[string]string{"src_backup_id": full.ID, "a": "source"}
	if v.Size != 3 || v.Name != "restored" || !maps.Equal(v.Metadata, metadata) {
		t.Errorf("got the restored volume %+v", v)
	}
	c.cloud.On(fakecloud.Match{Call: fakecloud.CreateBackup}, fakecloud.Fails())
	failed, err := backups.Create(t.Context(), c.cinder, backups.CreateOpts{VolumeID: id}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		b, _ := c.cloud.Backup(failed.ID)
		return b.Status == "error" && b.FailReason != ""
	})
	c.awaitStatus(id, "available")
}

package cloud

import (
	"context"
	"errors"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakecloud"
)

// realCloud is the environment variable with the path of the clouds.yaml of a real cloud with a
// project "csi".
const realCloud = "GROWVOL_OPENSTACK_CLOUDS_YAML"

// missingCase is a call about objects that do not exist.
type missingCase struct {
	name string // of the call
	run  func(ctx context.Context, c *Cloud) error
	kind volume.Kind
	says string // what a real Cinder or Nova (Zed) answers to it, with status 404
	// request is the one that TestForeign404IsNeverNotFound has answered by others.
	request fakecloud.Call
}

// Ids of no objects, each of another kind, so that an answer about the wrong object is noticed.
const (
	noVolume     = "0a000000-0000-4000-8000-00000000000a"
	noSnapshot   = "0b000000-0000-4000-8000-00000000000b"
	noBackup     = "0c000000-0000-4000-8000-00000000000c"
	noServer     = "0d000000-0000-4000-8000-00000000000d"
	noAttachment = "0e000000-0000-4000-8000-00000000000e"
)

// missingCases are all calls that name an object, with the answers of a real cloud to them. Cases
// with a server or volume that exists are in the comparison of tests/fakecloud.
func missingCases() []missingCase {
	volumeGone := "Volume " + noVolume + " could not be found."
	snapshotGone := "Snapshot " + noSnapshot + " could not be found."
	backupGone := "Backup " + noBackup + " could not be found."
	serverGone := "Instance " + noServer + " could not be found."
	return []missingCase{
		{
			"volume_get", func(ctx context.Context, c *Cloud) error { _, err := c.Volume(ctx, noVolume); return err },
			volume.KindNotFound, volumeGone, fakecloud.GetVolume,
		},
		{"volume_get", func(ctx context.Context, c *Cloud) error {
			_, err := c.Volume(ctx, strings.ToUpper(noVolume))
			return err
		}, volume.KindNotFound, "Volume " + strings.ToUpper(noVolume) + " could not be found.", fakecloud.GetVolume},
		{
			"volume_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteVolume(ctx, noVolume) },
			volume.KindNotFound, volumeGone, fakecloud.DeleteVolume,
		},
		{
			"volume_extend", func(ctx context.Context, c *Cloud) error { return c.ExtendVolume(ctx, noVolume, 2, false) },
			volume.KindNotFound, volumeGone, fakecloud.ExtendVolume,
		},
		{
			"volume_extend", func(ctx context.Context, c *Cloud) error { return c.ExtendVolume(ctx, noVolume, 2, true) },
			volume.KindNotFound, volumeGone, fakecloud.ExtendVolume,
		},
		{
			"volume_retype", func(ctx context.Context, c *Cloud) error { return c.Retype(ctx, noVolume, "rbd", "never") },
			volume.KindNotFound, volumeGone, fakecloud.RetypeVolume,
		},
		{"volume_retype", func(ctx context.Context, c *Cloud) error {
			return c.Retype(ctx, noVolume, "no-such-type",
				"never")
		}, volume.KindNotFound, volumeGone, fakecloud.RetypeVolume},
		{"volume_metadata", func(ctx context.Context, c *Cloud) error {
			return c.SetVolumeMetadata(ctx, noVolume, map[string]string{"a": "b"})
		}, volume.KindNotFound, volumeGone, fakecloud.SetMetadata},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, SourceVolID: noVolume})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateVolume},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, SnapshotID: noSnapshot})
			return err
		}, volume.KindNotFound, snapshotGone, fakecloud.CreateVolume},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, BackupID: noBackup})
			return err
		}, volume.KindNotFound, backupGone, fakecloud.CreateVolume},
		{"volume_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateVolume(ctx, NewVolume{Name: "gone", Size: 1, VolumeType: "no-such-type"})
			return err
		}, volume.KindInvalid, "Volume type with name no-such-type could not be found.", fakecloud.CreateVolume},
		{"volume_list", func(ctx context.Context, c *Cloud) error {
			_, _, err := c.Volumes(ctx, VolumePage{Marker: noVolume})
			return err
		}, volume.KindStale, volumeGone, fakecloud.ListVolumeDetail},

		{
			"snapshot_get", func(ctx context.Context, c *Cloud) error { _, err := c.Snapshot(ctx, noSnapshot); return err },
			volume.KindNotFound, snapshotGone, fakecloud.GetSnapshot,
		},
		{
			"snapshot_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteSnapshot(ctx, noSnapshot) },
			volume.KindNotFound, snapshotGone, fakecloud.DeleteSnapshot,
		},
		{"snapshot_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateSnapshot(ctx, NewSnapshot{Name: "gone", VolumeID: noVolume})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateSnapshot},
		{"snapshot_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateSnapshot(ctx, NewSnapshot{Name: "gone", VolumeID: noVolume, Force: true})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateSnapshot},
		{"snapshot_list", func(ctx context.Context, c *Cloud) error {
			_, _, err := c.Snapshots(ctx, SnapshotPage{Marker: noSnapshot})
			return err
		}, volume.KindStale, snapshotGone, fakecloud.ListSnapshotDetail},

		{
			"backup_get", func(ctx context.Context, c *Cloud) error { _, err := c.Backup(ctx, noBackup); return err },
			volume.KindNotFound, backupGone, fakecloud.GetBackup,
		},
		{
			"backup_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteBackup(ctx, noBackup) },
			volume.KindNotFound, backupGone, fakecloud.DeleteBackup,
		},
		{"backup_metadata", func(ctx context.Context, c *Cloud) error {
			return c.SetBackupMetadata(ctx, noBackup, map[string]string{"a": "b"})
		}, volume.KindNotFound, backupGone, fakecloud.UpdateBackup},
		{"backup_create", func(ctx context.Context, c *Cloud) error {
			_, err := c.CreateBackup(ctx, NewBackup{Name: "gone", VolumeID: noVolume})
			return err
		}, volume.KindNotFound, volumeGone, fakecloud.CreateBackup},
		{"backup_list", func(ctx context.Context, c *Cloud) error {
			_, _, err := c.Backups(ctx, BackupPage{Marker: noBackup})
			return err
		}, volume.KindStale, backupGone, fakecloud.ListBackupDetail},
		{
			"attachment_delete", func(ctx context.Context, c *Cloud) error { return c.DeleteAttachment(ctx, noAttachment) },
			volume.KindNotFound,
			"Volume attachment could not be found with filter: attachment_id = " + noAttachment + ".",
			fakecloud.DeleteAttachmentRecord,
		},

		{
			"server_get", func(ctx context.Context, c *Cloud) error { _, err := c.Server(ctx, noServer); return err },
			volume.KindNotFound, serverGone, fakecloud.GetServer,
		},
		{
			"volume_attach", func(ctx context.Context, c *Cloud) error { return c.Attach(ctx, noServer, noVolume, false) },
			volume.KindNotFound, serverGone, fakecloud.AttachVolume,
		},
		{
			"volume_detach", func(ctx context.Context, c *Cloud) error { return c.Detach(ctx, noServer, noVolume) },
			volume.KindNotFound, serverGone, fakecloud.DetachVolume,
		},
	}
}

// wantMissing checks a call about objects that do not exist, on the fake or on a real cloud,
// against what is recorded here of a real one.
func wantMissing(t *testing.T, c *Cloud, test missingCase) {
	t.Helper()
	err := test.run(t.Context(), c)
	volumetest.WantKind(t, err, test.kind)
	var a *answer
	if !errors.As(err, &a) {
		t.Fatalf("%v is not from an answer", err)
	}
	if a.status != http.StatusNotFound || a.message != test.says || a.isTypeMissing != (test.kind == volume.KindInvalid) {
		t.Errorf("answer %d %q (type missing: %t), want 404 %q", a.status, a.message, a.isTypeMissing, test.says)
	}
}

// callsOf returns the names of the calls that the source of this package has.
func callsOf(t *testing.T) map[string]bool {
	t.Helper()
	files, err := os.ReadDir(".")
	must(t, err)
	found := map[string]bool{}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		raw, err := os.ReadFile(f.Name())
		must(t, err)
		for _, match := range regexp.MustCompile(`(?:name: |cinderCall\(|novaCall\()"(\w+)"`).FindAllSubmatch(raw, -1) {
			found[string(match[1])] = true
		}
	}
	return found
}

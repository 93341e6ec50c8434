package openstack_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/backups"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/must"
)

// The keys of the driver's own metadata, which are those of cinder-csi-plugin.
const (
	clusterKey = "cinder.csi.openstack.org/cluster"
	nameKey    = "csi.storage.k8s.io/pv/name"
)

// testMetadata checks that the metadata in the classes are on the volume, the snapshot, the backup
// and the restored volume, beside those of the driver.
func (r *rig) testMetadata(t *testing.T) {
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	const param = "appendVolumeMetadata"
	// The longest key and value that Cinder accepts, and every kind of character.
	longKey, longValue, mixedKey := strings.Repeat("k", 255), strings.Repeat("v", 255), "A-z_:. /9"
	class := map[string]string{
		param: `{"billing": "team-a", "` + mixedKey + `": "ü", "` + longKey + `": "` + longValue + `"}`,
	}
	added := map[string]string{"billing": "team-a", mixedKey: "ü", longKey: longValue}
	withAdded := func(own map[string]string) map[string]string {
		all := maps.Clone(own)
		maps.Copy(all, added)
		return all
	}

	req := createRequest(testName(t), gib)
	req.Parameters = map[string]string{
		param:                           class[param],
		nameKey:                         req.GetName(),
		"fsType":                        "ext4",
		"csiProvisionerSecretName":      "s",
		"csiProvisionerSecretNamespace": "n",
	}
	id := must.Value(c.CreateVolume(ctx, req))(t).GetVolume().GetVolumeId()
	metadataOf := func(id string) map[string]string { return must.Value(r.User.Volume(ctx, id))(t).Metadata }
	wantMetadata(t, "the volume", metadataOf(id), withAdded(map[string]string{clusterKey: "test", nameKey: req.GetName()}))

	modify := func(value string) error {
		_, err := c.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: map[string]string{param: value},
		})
		return err
	}
	added["billing"], added["iops"] = "team-b", "5000"
	for range 2 {
		must.Succeed(t, modify(`{"billing": "team-b", "iops": "5000"}`))
		wantMetadata(t, "the modified volume", metadataOf(id),
			withAdded(map[string]string{clusterKey: "test", nameKey: req.GetName()}))
	}
	must.FailWith(t, modify(`{"`+clusterKey+`": "other"}`), codes.InvalidArgument, clusterKey)
	must.FailWith(t, modify(`{"a*": ""}`), codes.InvalidArgument, "a*")
	delete(added, "iops")
	added["billing"] = "team-a"

	take := func(kind string) string {
		req := &csi.CreateSnapshotRequest{
			SourceVolumeId: id,
			Name:           testName(t) + "-" + kind,
			Parameters:     map[string]string{"type": kind, param: class[param]},
		}
		r.awaitSnapshot(t, req)
		return must.Value(c.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	}
	snapshot, backup := take("snapshot"), take("backup")
	wantMetadata(t, "the snapshot", must.Value(snapshots.Get(ctx, r.User.Volumes, snapshot).Extract())(t).Metadata,
		withAdded(map[string]string{clusterKey: "test"}))
	wantMetadata(t, "the backup", *must.Value(backups.Get(ctx, r.User.Volumes, backup).Extract())(t).Metadata,
		withAdded(map[string]string{clusterKey: "test"}))

	restore := createRequest(testName(t)+"-restored", gib)
	restore.VolumeContentSource = snapshotSource(backup)
	restore.Parameters = map[string]string{param: class[param], nameKey: restore.GetName()}
	restored := must.Value(c.CreateVolume(ctx, restore))(t).GetVolume().GetVolumeId()
	// cinder-backup has restored the metadata of the backed-up volume, among them iops.
	wantMetadata(t, "the restored volume", metadataOf(restored),
		withAdded(map[string]string{clusterKey: "test", nameKey: restore.GetName(), "src_backup_id": backup, "iops": "5000"}))

	for _, snapshot := range []string{snapshot, backup} {
		must.Value(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	}
	for _, id := range []string{restored, id} {
		must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
}

// wantMetadata fails the test unless an object of Cinder has exactly this metadata.
func wantMetadata(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			t.Errorf("%s: got %s=%q, want %q", what, key, got[key], want[key])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: got the keys %v, want %v", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

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
)

// The metadata of the driver itself, as cinder-csi-plugin writes them.
const (
	clusterKey = "cinder.csi.openstack.org/cluster"
	nameKey    = "csi.storage.k8s.io/pv/name"
)

// testMetadata: Cinder has the metadata that the classes name, on the volume, the
// snapshot, the backup and what is restored from it, beside those of the driver.
func (r *rig) testMetadata(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	const param = "appendVolumeMetadata"
	// The longest that Cinder takes, and each kind of character.
	long, odd := strings.Repeat("v", 255), "A-z_:. /9"
	class := map[string]string{param: `{"billing": "team-a", "` + odd + `": "ü", "` + strings.Repeat("k", 255) + `": "` + long + `"}`}
	added := map[string]string{"billing": "team-a", odd: "ü", strings.Repeat("k", 255): long}
	with := func(more map[string]string) map[string]string {
		all := maps.Clone(more)
		maps.Copy(all, added)
		return all
	}

	req := request(name(t), gib)
	req.Parameters = map[string]string{param: class[param], nameKey: req.GetName(), "fsType": "ext4", "csiProvisionerSecretName": "s", "csiProvisionerSecretNamespace": "n"}
	id := get(c.CreateVolume(ctx, req))(t).GetVolume().GetVolumeId()
	of := func(id string) map[string]string { return get(r.User.Volume(ctx, id))(t).Metadata }
	hasMetadata(t, "the volume", of(id), with(map[string]string{clusterKey: "test", nameKey: req.GetName()}))

	modify := func(value string) error {
		_, err := c.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{param: value}})
		return err
	}
	added["billing"], added["iops"] = "team-b", "5000"
	for range 2 {
		must(t, modify(`{"billing": "team-b", "iops": "5000"}`))
		hasMetadata(t, "the modified volume", of(id), with(map[string]string{clusterKey: "test", nameKey: req.GetName()}))
	}
	wantCode(t, modify(`{"`+clusterKey+`": "other"}`), codes.InvalidArgument, clusterKey)
	wantCode(t, modify(`{"a*": ""}`), codes.InvalidArgument, "a*")
	delete(added, "iops")
	added["billing"] = "team-a"

	take := func(kind string) string {
		req := &csi.CreateSnapshotRequest{SourceVolumeId: id, Name: name(t) + "-" + kind, Parameters: map[string]string{"type": kind, param: class[param]}}
		r.awaitSnapshot(t, req)
		return get(c.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	}
	snapshot, backup := take("snapshot"), take("backup")
	hasMetadata(t, "the snapshot", get(snapshots.Get(ctx, r.User.Volumes, snapshot).Extract())(t).Metadata, with(map[string]string{clusterKey: "test"}))
	hasMetadata(t, "the backup", *get(backups.Get(ctx, r.User.Volumes, backup).Extract())(t).Metadata, with(map[string]string{clusterKey: "test"}))

	restore := request(name(t)+"-restored", gib)
	restore.VolumeContentSource = fromSnapshot(backup)
	restore.Parameters = map[string]string{param: class[param], nameKey: restore.GetName()}
	restored := get(c.CreateVolume(ctx, restore))(t).GetVolume().GetVolumeId()
	// cinder-backup has put those of the backup's volume there, iops among them.
	hasMetadata(t, "the restored volume", of(restored), with(map[string]string{clusterKey: "test", nameKey: restore.GetName(), "src_backup_id": backup, "iops": "5000"}))

	for _, snapshot := range []string{snapshot, backup} {
		get(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	}
	for _, id := range []string{restored, id} {
		get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
}

// hasMetadata fails the test unless Cinder has exactly these.
func hasMetadata(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			t.Errorf("%s has %s=%q, want %q", what, key, got[key], want[key])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s has the keys %v, want %v", what, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

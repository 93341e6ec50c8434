package openstack_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testCopiesInUse takes a snapshot and a clone of a volume in use. The copies are larger than the
// volume and used in another server: they must have its data and a filesystem of their own size.
func (r *rig) testCopiesInUse(t *testing.T) {
	r.checkLeftovers(t)
	ctx := testContext(t)
	g, other := r.guest(t, openstack.BusVirtioBlk), r.guest(t, openstack.BusVirtioSCSI)
	v := must.Value(g.Create(ctx, testName(t), gib, csiclient.MountCapability("xfs"), nil))(t)
	must.Succeed(t, g.Use(ctx, v))
	g.runScript(t, "echo precious >"+v.Target+"/data && sync")
	req := &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: testName(t)}
	snapshot := must.Value(g.Controller.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	r.awaitSnapshot(t, req)
	sources := map[string]*csi.VolumeContentSource{"restored": snapshotSource(snapshot), "cloned": volumeSource(v.ID)}
	for kind, source := range sources {
		copied := must.Value(other.Create(ctx, testName(t)+"-"+kind, 3*gib, csiclient.MountCapability("xfs"), source))(t)
		must.Succeed(t, other.Use(ctx, copied))
		if got := other.runScript(t, "cat "+copied.Target+"/data"); got != "precious" {
			t.Errorf("%s: got %q in the file, want precious", kind, got)
		}
		other.wantGrown(t, copied, 3*gib)
		must.Succeed(t, other.Release(ctx, copied))
		must.Succeed(t, other.Delete(ctx, copied))
	}
	must.Succeed(t, g.Release(ctx, v))
	must.Value(g.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	must.Succeed(t, g.Delete(ctx, v))
}

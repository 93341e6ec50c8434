package openstack_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// createRequest returns the request of external-provisioner for a claim of this size in bytes.
func createRequest(name string, size int64) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{csiclient.MountCapability("ext4")},
	}
}

func snapshotSource(id string) *csi.VolumeContentSource {
	source := &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: source}}
}

func volumeSource(id string) *csi.VolumeContentSource {
	source := &csi.VolumeContentSource_VolumeSource{VolumeId: id}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: source}}
}

// testLifecycle makes every call of the controller for one volume, and compares each result with
// what Cinder has.
func (r *rig) testLifecycle(t *testing.T) {
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	created := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume()
	id := created.GetVolumeId()
	again := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume()
	if again.GetVolumeId() != id || created.GetCapacityBytes() != gib {
		t.Errorf("created %s with %s, but the repeated call returned %s", id, sizeText(created.GetCapacityBytes()),
			again.GetVolumeId())
	}
	_, err := c.CreateVolume(ctx, createRequest(testName(t), 5*gib))
	must.FailWith(t, err, codes.AlreadyExists, testName(t), "1 GiB", "5 GiB")

	testExpansion(t, r, id)
	testLists(t, r, id)
	snapshot := testSnapshots(t, r, id)
	copies := testCopies(t, r, id, snapshot)
	testRetype(t, r, id)

	_, err = c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	must.FailWith(t, err, codes.FailedPrecondition, id, snapshot)
	for _, id := range copies {
		must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
	must.Value(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	must.Value(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	// DeleteVolume returns only when the volume is gone.
	if v, err := r.User.Volume(ctx, id); !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		t.Errorf("after DeleteVolume: got the volume %+v (%v), want NotFound", v, err)
	}
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	_, err = c.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
	must.FailWith(t, err, codes.NotFound, id)
}

// expand expands a volume to a size in bytes and returns the size in the answer.
func expand(ctx context.Context, c csi.ControllerClient, id string, size int64) (int64, error) {
	resp, err := c.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId:      id,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	})
	return resp.GetCapacityBytes(), err
}

// wantSize fails the test unless Cinder has the volume with this size in bytes and this state.
func (r *rig) wantSize(t *testing.T, id string, size int64, status string) {
	t.Helper()
	v := must.Value(r.User.Volume(t.Context(), id))(t)
	if int64(v.Size)*gib != size || v.Status != status {
		t.Errorf("Cinder has volume %s in the state %q with %d GiB, want %q with %s",
			id, v.Status, v.Size, status, sizeText(size))
	}
}

// testExpansion expands the volume to 3 GiB in steps.
func testExpansion(t *testing.T, r *rig, id string) {
	t.Helper()
	for _, step := range []struct{ required, want int64 }{
		{2 * gib, 2 * gib},
		{2*gib + 1, 3 * gib}, // is rounded up
		{3 * gib, 3 * gib},   // repeated
		{gib, 3 * gib},       // a smaller target, as after a restart
	} {
		if got := must.Value(expand(testContext(t), r.client(), id, step.required))(t); got != step.want {
			t.Errorf("expanded to %d bytes: got %s, want %s", step.required, sizeText(got), sizeText(step.want))
		}
		r.wantSize(t, id, step.want, "available")
	}
	_, err := r.client().ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 3*gib + 1, LimitBytes: 3*gib + 2},
	})
	must.FailWith(t, err, codes.OutOfRange, "limit")
}

// testLists lists two volumes on pages of one.
func testLists(t *testing.T, r *rig, id string) {
	t.Helper()
	req := createRequest(testName(t)+"-second", gib)
	second := must.Value(r.client().CreateVolume(t.Context(), req))(t).GetVolume().GetVolumeId()
	found := map[string]int64{}
	for token, pages := "", 0; ; pages++ {
		if pages > 10 {
			t.Fatal("ListVolumes has more than 10 pages of one volume, want 2")
		}
		list := must.Value(r.client().ListVolumes(t.Context(), &csi.ListVolumesRequest{
			MaxEntries:    1,
			StartingToken: token,
		}))(t)
		for _, e := range list.GetEntries() {
			found[e.GetVolume().GetVolumeId()] = e.GetVolume().GetCapacityBytes()
		}
		if token = list.GetNextToken(); token == "" {
			break
		}
	}
	if len(found) != 2 || found[id] != 3*gib || found[second] != gib {
		t.Errorf("got the volumes %v, want %s with 3 GiB and %s with 1 GiB", found, id, second)
	}
	got := must.Value(r.client().ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{
		VolumeId: id,
	}))(t).GetVolume()
	if got.GetVolumeId() != id || got.GetCapacityBytes() != 3*gib {
		t.Errorf("ControllerGetVolume: got %v, want %s with 3 GiB", got, id)
	}
	must.Value(r.client().DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: second}))(t)
}

// testSnapshots takes a snapshot twice with one name, and returns its ID when it is ready to use.
func testSnapshots(t *testing.T, r *rig, id string) string {
	t.Helper()
	req := &csi.CreateSnapshotRequest{SourceVolumeId: id, Name: testName(t) + "-snapshot"}
	s := must.Value(r.client().CreateSnapshot(t.Context(), req))(t).GetSnapshot()
	r.awaitSnapshot(t, req)
	again := must.Value(r.client().CreateSnapshot(t.Context(), req))(t).GetSnapshot()
	if again.GetSnapshotId() != s.GetSnapshotId() {
		t.Errorf("the repeated call returned the snapshot %s, want %s", again.GetSnapshotId(), s.GetSnapshotId())
	}
	list := must.Value(r.client().ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{
		SourceVolumeId: id,
	}))(t).GetEntries()
	if len(list) != 1 {
		t.Fatalf("got the snapshots %v, want only %s", list, s.GetSnapshotId())
	}
	if listed := list[0].GetSnapshot(); listed.GetSnapshotId() != s.GetSnapshotId() || listed.GetSizeBytes() != 3*gib {
		t.Errorf("got the snapshot %v, want %s with 3 GiB", listed, s.GetSnapshotId())
	}
	return s.GetSnapshotId()
}

// awaitSnapshot repeats the call until the snapshot is ready, as external-snapshotter does.
func (r *rig) awaitSnapshot(t *testing.T, req *csi.CreateSnapshotRequest) {
	t.Helper()
	what := "snapshot " + req.GetName() + " is ready"
	must.Succeed(t, openstack.WaitUntil(t.Context(), what, func(ctx context.Context) (bool, error) {
		resp, err := r.client().CreateSnapshot(ctx, req)
		return resp.GetSnapshot().GetReadyToUse(), err
	}))
}

// testCopies creates a restored and a cloned volume that are larger than their sources, and returns
// their IDs.
func testCopies(t *testing.T, r *rig, id, snapshot string) []string {
	t.Helper()
	var copies []string
	sources := map[string]*csi.VolumeContentSource{"restored": snapshotSource(snapshot), "cloned": volumeSource(id)}
	for kind, source := range sources {
		req := createRequest(testName(t)+"-"+kind, 5*gib)
		req.VolumeContentSource = source
		v := must.Value(r.client().CreateVolume(t.Context(), req))(t).GetVolume()
		if v.GetCapacityBytes() != 5*gib {
			t.Errorf("%s: got %s, want 5 GiB", kind, sizeText(v.GetCapacityBytes()))
		}
		r.wantSize(t, v.GetVolumeId(), 5*gib, "available")
		copies = append(copies, v.GetVolumeId())
	}
	return copies
}

// testRetype changes the type of the volume.
func testRetype(t *testing.T, r *rig, id string) {
	t.Helper()
	modify := func(volumeType string) error {
		_, err := r.client().ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: map[string]string{"type": volumeType},
		})
		return err
	}
	must.Succeed(t, modify("rbd-gold"))
	if v := must.Value(r.User.Volume(t.Context(), id))(t); v.VolumeType != "rbd-gold" || v.Status != "available" {
		t.Errorf("got the type %q and the state %q, want rbd-gold and available", v.VolumeType, v.Status)
	}
	must.Succeed(t, modify("rbd-gold"))
	must.FailWith(t, modify("no-such-type"), codes.InvalidArgument, "no-such-type")
}

// testBackup takes a snapshot of the type backup: an independent copy, which remains when the
// volume is gone.
func (r *rig) testBackup(t *testing.T) {
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	source := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()
	req := &csi.CreateSnapshotRequest{
		SourceVolumeId: source,
		Name:           testName(t),
		Parameters:     map[string]string{"type": "backup"},
	}
	backup := must.Value(c.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	r.awaitSnapshot(t, req)
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: source}))(t)
	restore := createRequest(testName(t)+"-restored", 2*gib)
	restore.VolumeContentSource = snapshotSource(backup)
	restored := must.Value(c.CreateVolume(ctx, restore))(t).GetVolume()
	if restored.GetCapacityBytes() != 2*gib {
		t.Errorf("restored: got %s, want 2 GiB", sizeText(restored.GetCapacityBytes()))
	}
	r.wantSize(t, restored.GetVolumeId(), 2*gib, "available")
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: restored.GetVolumeId()}))(t)
	must.Value(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: backup}))(t)
}

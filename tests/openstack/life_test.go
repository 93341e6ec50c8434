package openstack_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
)

// request is what external-provisioner sends for a claim of a size in bytes.
func request(name string, size int64) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*csi.VolumeCapability{csiclient.MountCapability("ext4")},
	}
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// testLife takes a volume through everything that a controller can do with
// it; after each step Cinder is asked what it has.
func (r *rig) testLife(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	created := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume()
	id := created.GetVolumeId()
	again := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume()
	if again.GetVolumeId() != id || created.GetCapacityBytes() != gib {
		t.Errorf("created %s of %s; the repeated call says %s", id, short(created.GetCapacityBytes()), again.GetVolumeId())
	}
	_, err := c.CreateVolume(ctx, request(name(t), 5*gib))
	wantCode(t, err, codes.AlreadyExists, name(t), "1 GiB", "5 GiB")

	testExpansion(t, r, id)
	testLists(t, r, id)
	snapshot := testSnapshots(t, r, id)
	copies := testCopies(t, r, id, snapshot)
	testRetype(t, r, id)

	_, err = c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	wantCode(t, err, codes.FailedPrecondition, id, snapshot)
	for _, id := range copies {
		get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
	get(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	get(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	// "Deleted" means gone, not "being deleted".
	if v, err := r.User.Volume(ctx, id); !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		t.Errorf("the deleted volume is still there: %+v, %v", v, err)
	}
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	_, err = c.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
	wantCode(t, err, codes.NotFound, id)
}

// expand asks for a size in bytes and returns the one that is answered.
func expand(ctx context.Context, c csi.ControllerClient, id string, size int64) (int64, error) {
	resp, err := c.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: size}})
	return resp.GetCapacityBytes(), err
}

// wantSize fails the test unless Cinder has the volume with this size, at
// rest.
func (r *rig) wantSize(t *testing.T, id string, size int64, status string) {
	t.Helper()
	v := get(r.User.Volume(t.Context(), id))(t)
	if int64(v.Size)*gib != size || v.Status != status {
		t.Errorf("Cinder has volume %s as %q with %d GiB; want %q with %s", id, v.Status, v.Size, status, short(size))
	}
}

func testExpansion(t *testing.T, r *rig, id string) {
	t.Helper()
	for _, step := range []struct{ ask, want int64 }{
		{2 * gib, 2 * gib},
		{2*gib + 1, 3 * gib}, // rounded up
		{3 * gib, 3 * gib},   // repeated
		{gib, 3 * gib},       // an older, smaller target after a restart
	} {
		if got := get(expand(limited(t), r.client(), id, step.ask))(t); got != step.want {
			t.Errorf("expanded to %d bytes: the answer is %s, want %s", step.ask, short(got), short(step.want))
		}
		r.wantSize(t, id, step.want, "available")
	}
	_, err := r.client().ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 3*gib + 1, LimitBytes: 3*gib + 2},
	})
	wantCode(t, err, codes.OutOfRange, "limit")
}

func testLists(t *testing.T, r *rig, id string) {
	t.Helper()
	second := get(r.client().CreateVolume(t.Context(), request(name(t)+"-second", gib)))(t).GetVolume().GetVolumeId()
	found := map[string]int64{}
	for token, pages := "", 0; ; pages++ {
		if pages > 10 {
			t.Fatal("ten pages of one volume each, though there are two volumes")
		}
		list := get(r.client().ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 1, StartingToken: token}))(t)
		for _, e := range list.GetEntries() {
			found[e.GetVolume().GetVolumeId()] = e.GetVolume().GetCapacityBytes()
		}
		if token = list.GetNextToken(); token == "" {
			break
		}
	}
	if len(found) != 2 || found[id] != 3*gib || found[second] != gib {
		t.Errorf("listed %v; want %s with 3 GiB and %s with 1 GiB", found, id, second)
	}
	got := get(r.client().ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id}))(t).GetVolume()
	if got.GetVolumeId() != id || got.GetCapacityBytes() != 3*gib {
		t.Errorf("ControllerGetVolume: %v", got)
	}
	get(r.client().DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: second}))(t)
}

// testSnapshots takes a snapshot twice under one name and returns its id once
// it is ready to use.
func testSnapshots(t *testing.T, r *rig, id string) string {
	t.Helper()
	req := &csi.CreateSnapshotRequest{SourceVolumeId: id, Name: name(t) + "-snapshot"}
	s := get(r.client().CreateSnapshot(t.Context(), req))(t).GetSnapshot()
	r.awaitSnapshot(t, req)
	if again := get(r.client().CreateSnapshot(t.Context(), req))(t).GetSnapshot(); again.GetSnapshotId() != s.GetSnapshotId() {
		t.Errorf("one name, two snapshots: %s and %s", s.GetSnapshotId(), again.GetSnapshotId())
	}
	list := get(r.client().ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{SourceVolumeId: id}))(t).GetEntries()
	if len(list) != 1 || list[0].GetSnapshot().GetSnapshotId() != s.GetSnapshotId() || list[0].GetSnapshot().GetSizeBytes() != 3*gib {
		t.Errorf("listed snapshots: %v; want only %s with 3 GiB", list, s.GetSnapshotId())
	}
	return s.GetSnapshotId()
}

// awaitSnapshot repeats the call, as external-snapshotter does, until the
// snapshot is ready.
func (r *rig) awaitSnapshot(t *testing.T, req *csi.CreateSnapshotRequest) {
	t.Helper()
	must(t, openstack.Eventually(t.Context(), "snapshot "+req.GetName()+" is ready", func(ctx context.Context) (bool, error) {
		resp, err := r.client().CreateSnapshot(ctx, req)
		return resp.GetSnapshot().GetReadyToUse(), err
	}))
}

// testCopies makes volumes larger than their sources, and returns them.
func testCopies(t *testing.T, r *rig, id, snapshot string) []string {
	t.Helper()
	var copies []string
	for kind, source := range map[string]*csi.VolumeContentSource{"restored": fromSnapshot(snapshot), "cloned": fromVolume(id)} {
		req := request(name(t)+"-"+kind, 5*gib)
		req.VolumeContentSource = source
		v := get(r.client().CreateVolume(t.Context(), req))(t).GetVolume()
		if v.GetCapacityBytes() != 5*gib {
			t.Errorf("%s: %s, want 5 GiB", kind, short(v.GetCapacityBytes()))
		}
		r.wantSize(t, v.GetVolumeId(), 5*gib, "available")
		copies = append(copies, v.GetVolumeId())
	}
	return copies
}

func testRetype(t *testing.T, r *rig, id string) {
	t.Helper()
	modify := func(to string) error {
		_, err := r.client().ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{"type": to}})
		return err
	}
	must(t, modify("rbd-gold"))
	if v := get(r.User.Volume(t.Context(), id))(t); v.VolumeType != "rbd-gold" || v.Status != "available" {
		t.Errorf("after the change of type: %q, %q", v.VolumeType, v.Status)
	}
	must(t, modify("rbd-gold"))
	wantCode(t, modify("no-such-type"), codes.InvalidArgument, "no-such-type")
}

// testBackup: a snapshot of the type backup is a copy of its own, which lives
// on when its volume is gone.
func (r *rig) testBackup(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	source := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume().GetVolumeId()
	req := &csi.CreateSnapshotRequest{SourceVolumeId: source, Name: name(t), Parameters: map[string]string{"type": "backup"}}
	backup := get(c.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	r.awaitSnapshot(t, req)
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: source}))(t)
	restore := request(name(t)+"-restored", 2*gib)
	restore.VolumeContentSource = fromSnapshot(backup)
	restored := get(c.CreateVolume(ctx, restore))(t).GetVolume()
	if restored.GetCapacityBytes() != 2*gib {
		t.Errorf("restored with %s, want 2 GiB", short(restored.GetCapacityBytes()))
	}
	r.wantSize(t, restored.GetVolumeId(), 2*gib, "available")
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: restored.GetVolumeId()}))(t)
	get(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: backup}))(t)
}

package ceph_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests the calls of the controller on volumes that no node uses.

// testLifecycle makes the calls of the controller for one volume, and compares each result with
// what Ceph has.
func (r *rig) testLifecycle(t *testing.T) {
	t.Parallel()
	ctx, c := testContext(t), r.client()
	created := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume()
	id := created.GetVolumeId()
	again := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume()
	if again.GetVolumeId() != id || created.GetCapacityBytes() != gib {
		t.Errorf("created %s with %s, but the repeated call returned %s", id, sizeText(created.GetCapacityBytes()),
			again.GetVolumeId())
	}
	r.wantSize(t, id, gib)
	_, err := c.CreateVolume(ctx, createRequest(testName(t), 5*gib))
	must.FailWith(t, err, codes.AlreadyExists, "1 GiB", "5 GiB")
	wrong := createRequest(testName(t)+"-wrong", gib)
	wrong.Parameters["pool"] = "no-such-pool"
	_, err = c.CreateVolume(ctx, wrong)
	must.FailWith(t, err, codes.Unavailable, "no-such-pool", "ceph osd pool ls")

	testExpansion(t, r, id)
	testGet(t, r, id)
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	r.wantNoImage(t, id)
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	_, err = c.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
	must.FailWith(t, err, codes.NotFound, id)
	_, err = expand(ctx, c, id, 4*gib)
	must.FailWith(t, err, codes.NotFound, id)
}

// testExpansion expands the volume to 3 GiB in steps.
func testExpansion(t *testing.T, r *rig, id string) {
	t.Helper()
	for _, step := range []struct{ required, want int64 }{
		{2 * gib, 2 * gib},
		{2*gib + 1, 2*gib + mib}, // is rounded up
		{3 * gib, 3 * gib},
		{3 * gib, 3 * gib}, // repeated
		{gib, 3 * gib},     // a smaller target, as after a restart
	} {
		if got := must.Value(expand(testContext(t), r.client(), id, step.required))(t); got != step.want {
			t.Errorf("expanded to %d bytes: got %s, want %s", step.required, sizeText(got), sizeText(step.want))
		}
		r.wantSize(t, id, step.want)
	}
	_, err := r.client().ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 3*gib + 1, LimitBytes: 3*gib + 2},
	})
	must.FailWith(t, err, codes.OutOfRange, "limit")
}

// testGet gets the volume, and finds it in the list of all on small pages.
func testGet(t *testing.T, r *rig, id string) {
	t.Helper()
	ctx := testContext(t)
	got := must.Value(r.client().ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id}))(t).GetVolume()
	if got.GetVolumeId() != id || got.GetCapacityBytes() != 3*gib {
		t.Errorf("ControllerGetVolume: got %v, want %s with 3 GiB", got, id)
	}
	found := map[string]int64{}
	for token, pages := "", 0; ; pages++ {
		if pages > 100 {
			t.Fatal("ListVolumes has more than 100 pages of three volumes")
		}
		list := must.Value(r.client().ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 3, StartingToken: token}))(t)
		for _, e := range list.GetEntries() {
			found[e.GetVolume().GetVolumeId()] = e.GetVolume().GetCapacityBytes()
		}
		if token = list.GetNextToken(); token == "" {
			break
		}
	}
	if found[id] != 3*gib {
		t.Errorf("ListVolumes: got %v, want %s with 3 GiB among them", found, id)
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

// testCopies deletes a volume before its snapshot, its clone and the volume restored from the
// snapshot: they stay usable, and nothing of it stays when they are deleted.
func (r *rig) testCopies(t *testing.T) {
	t.Parallel()
	ctx, c := testContext(t), r.client()
	source := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()
	req := &csi.CreateSnapshotRequest{SourceVolumeId: source, Name: testName(t) + "-snapshot"}
	snapshot := must.Value(c.CreateSnapshot(ctx, req))(t).GetSnapshot()
	again := must.Value(c.CreateSnapshot(ctx, req))(t).GetSnapshot()
	if again.GetSnapshotId() != snapshot.GetSnapshotId() || !again.GetReadyToUse() || again.GetSizeBytes() != gib {
		t.Errorf("the repeated call returned the snapshot %v, want %s, ready, 1 GiB", again, snapshot.GetSnapshotId())
	}
	restored := r.copy(t, "restored", snapshotSource(snapshot.GetSnapshotId()))
	cloned := r.copy(t, "cloned", volumeSource(source))
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: source}))(t)
	r.wantNoImage(t, source)
	_, err := c.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: source})
	must.FailWith(t, err, codes.NotFound, source)
	// A snapshot of a deleted volume can be restored.
	second := r.copy(t, "second", snapshotSource(snapshot.GetSnapshotId()))
	// The snapshot is deleted before the volumes that were made of it.
	for range 2 {
		must.Value(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshotId()}))(t)
	}
	for _, id := range []string{restored, cloned, second} {
		if got := must.Value(expand(ctx, c, id, 4*gib))(t); got != 4*gib {
			t.Errorf("a copy after the deletion of its source: expanded to %s, want 4 GiB", sizeText(got))
		}
		must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
	}
	r.wantNothingOf(t, testName(t))
}

// copy creates a volume of 3 GiB from a source of 1 GiB and returns its handle.
func (r *rig) copy(t *testing.T, kind string, source *csi.VolumeContentSource) string {
	t.Helper()
	req := createRequest(testName(t)+"-"+kind, 3*gib)
	req.VolumeContentSource = source
	id := must.Value(r.client().CreateVolume(testContext(t), req))(t).GetVolume().GetVolumeId()
	again := must.Value(r.client().CreateVolume(testContext(t), req))(t).GetVolume().GetVolumeId()
	if again != id {
		t.Errorf("%s: created %s, but the repeated call returned %s", kind, id, again)
	}
	r.wantSize(t, id, 3*gib)
	return id
}

// testCopiesInUse takes a snapshot and a clone of a volume in use. The copies are larger than the
// volume and used by another node: they must have its data and a filesystem of their own size.
func (r *rig) testCopiesInUse(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	n, other := r.nodes[0], r.nodes[1]
	capability := csiclient.MountCapability("xfs")
	v := must.Value(n.CreateWithParameters(ctx, class(nil), testName(t), gib, capability, nil))(t)
	must.Succeed(t, n.Use(ctx, v))
	n.runScript(t, "echo precious >"+v.Target+"/data && sync -f "+v.Target+"/data")
	req := &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: testName(t)}
	snapshot := must.Value(n.Controller.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	sources := map[string]*csi.VolumeContentSource{"restored": snapshotSource(snapshot), "cloned": volumeSource(v.ID)}
	for kind, source := range sources {
		copied := must.Value(other.CreateWithParameters(ctx, class(nil), testName(t)+"-"+kind, 3*gib, capability, source))(t)
		must.Succeed(t, other.Use(ctx, copied))
		if got := other.runScript(t, "cat "+copied.Target+"/data"); got != "precious" {
			t.Errorf("%s: got %q in the file, want precious", kind, got)
		}
		other.wantGrown(t, copied, 3*gib)
		must.Succeed(t, other.Release(ctx, copied))
		must.Succeed(t, other.Delete(ctx, copied))
	}
	// While a node uses the volume, it can be deleted neither by accident nor silently.
	must.FailWith(t, n.Delete(ctx, v), codes.FailedPrecondition, v.ID, "is attached to the nodes node-1")
	must.Succeed(t, n.Release(ctx, v))
	must.Value(n.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	must.Succeed(t, n.Delete(ctx, v))
}

// testCapacity compares the capacity of a pool with the free space of the OSDs.
func (r *rig) testCapacity(t *testing.T) {
	t.Parallel()
	get := func(parameters map[string]string) (int64, error) {
		resp, err := r.client().GetCapacity(testContext(t), &csi.GetCapacityRequest{Parameters: class(parameters)})
		return resp.GetAvailableCapacity(), err
	}
	for pool, parameters := range map[string]map[string]string{
		ceph.Pool: nil, ceph.DataPool: {"dataPool": ceph.DataPool},
	} {
		// Three OSDs of 20 GiB; two thirds of it with erasure coding, and Ceph keeps a reserve.
		if got := must.Value(get(parameters))(t); got < 30*gib || got > 60*gib {
			t.Errorf("the capacity of pool %s: got %s, want 30 to 60 GiB", pool, sizeText(got))
		}
	}
	_, err := get(map[string]string{"pool": "no-such-pool"})
	must.FailWith(t, err, codes.Unavailable, "no-such-pool", "ceph osd pool ls")
}

// testAttributes modifies a volume, with an unknown parameter.
func (r *rig) testAttributes(t *testing.T) {
	t.Parallel()
	ctx, c := testContext(t), r.client()
	id := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()
	modify := func(parameters map[string]string) error {
		_, err := c.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: parameters,
		})
		return err
	}
	must.FailWith(t, modify(map[string]string{"no-such-parameter": "1"}), codes.InvalidArgument, "no-such-parameter")
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
}

// wantNothingOf fails the test if an image is left that was made for volumes of this name: also a
// deleted one that has waited for its snapshots and clones, or one whose removal was interrupted.
// Images can have other names, so it compares what their metadata say.
func (r *rig) wantNothingOf(t *testing.T, name string) {
	t.Helper()
	var left []string
	for _, image := range r.imageNames(t, ceph.Pool) {
		// An image of another test may be gone by now.
		meta, _ := r.Tool(t.Context(), "rbd", "image-meta", "list", image, "--format=json")
		if strings.Contains(meta, name) {
			left = append(left, image+" "+meta)
		}
	}
	for id, trashed := range r.trash(t, ceph.Pool) {
		if strings.Contains(trashed, name) {
			left = append(left, fmt.Sprintf("%s in the trash: %q", id, trashed))
		}
	}
	if len(left) > 0 {
		t.Errorf("all volumes and snapshots are deleted, but Ceph still has %q", left)
	}
}

// trash returns the images in the trash of a pool, by their ids, as Ceph encodes them: with their
// former names. `rbd trash ls` does not list those whose removal was interrupted.
func (r *rig) trash(t *testing.T, pool string) map[string]string {
	t.Helper()
	keys, err := r.Tool(t.Context(), "rados", "-p", pool, "listomapkeys", "rbd_trash")
	if err != nil && !strings.Contains(err.Error(), "No such file or directory") {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for key := range strings.FieldsSeq(keys) {
		file := filepath.Join(t.TempDir(), key)
		// An image of another test may be gone by now.
		if _, err := r.Tool(t.Context(), "rados", "-p", pool, "getomapval", "rbd_trash", key, file); err == nil {
			all[key] = string(must.Value(os.ReadFile(file))(t))
		}
	}
	return all
}

package ceph_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests volumes whose images were made by hand.

// staticVolume creates an image of 1 GiB by hand and returns the volume of its PersistentVolume.
func (r *rig) staticVolume(t *testing.T, n *node, image string) *csiclient.Volume {
	t.Helper()
	must.Value(r.Tool(t.Context(), "rbd", "create", "--size=1G", "--image-feature=layering,exclusive-lock", image))(t)
	return &csiclient.Volume{
		ID:         ceph.Cluster + "/" + image,
		Name:       testName(t),
		Size:       gib,
		Capability: csiclient.MountCapability("ext4"),
		Staging:    filepath.Join(n.Dir, testName(t), "globalmount"),
		Target:     filepath.Join(n.Dir, testName(t), "pod"),
	}
}

// useStatic is staticVolume with the volume in use.
func (r *rig) useStatic(t *testing.T, n *node, image string) *csiclient.Volume {
	t.Helper()
	v := r.staticVolume(t, n, image)
	must.Succeed(t, n.Use(testContext(t), v))
	return v
}

// testStatic expands, snapshots and copies an image that was made by hand.
func (r *rig) testStatic(t *testing.T) {
	t.Parallel()
	n, ctx := r.nextNode(), testContext(t)
	image := ceph.OtherPool + "/made by hand"
	image = strings.ReplaceAll(image, " ", "-")
	v := r.useStatic(t, n, image)
	w := n.startWriter(t, v)
	if e := must.Value(n.Expand(ctx, v, 2*gib))(t); e.ControllerSize != 2*gib || e.NodeSize != 2*gib {
		t.Errorf("the controller reports %s, the node %s, want 2 GiB", sizeText(e.ControllerSize), sizeText(e.NodeSize))
	}
	r.wantSize(t, v.ID, 2*gib)
	n.wantGrown(t, v, 2*gib)
	w.stop(t)
	w.verify(t, v)
	req := &csi.CreateSnapshotRequest{SourceVolumeId: v.ID, Name: testName(t)}
	snapshot := must.Value(n.Controller.CreateSnapshot(ctx, req))(t).GetSnapshot().GetSnapshotId()
	restored := r.copy(t, "restored", snapshotSource(snapshot))
	must.Succeed(t, n.Release(ctx, v))
	must.Value(n.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: restored}))(t)
	must.Value(n.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot}))(t)
	if out := must.Value(r.Tool(ctx, "rbd", "snap", "ls", image))(t); out != "" {
		t.Errorf("after DeleteSnapshot, image %s still has the snapshots %s", image, out)
	}
	must.Value(r.Tool(ctx, "rbd", "rm", "--no-progress", image))(t)
}

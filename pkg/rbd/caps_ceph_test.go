//go:build ceph

package rbd

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/librbd"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
)

// This file runs every call with a user of Ceph that has exactly the capabilities of the
// documentation.

// capsUser is the user of this test.
const capsUser = "growvol-caps"

// userClusters is the rig's cluster with another user.
type userClusters struct {
	Clusters

	user, key string
}

func (c userClusters) Read(id string) (cluster.Cluster, error) {
	found, err := c.Clusters.Read(id)
	found.User, found.Key = c.user, c.key
	return found, err
}

// capsRig returns a backend whose user has those capabilities, in arguments of `ceph auth` that a
// shell would read.
func capsRig(t *testing.T, caps string) (r *cephRig, nodes *kubeapitest.Server, log *bytes.Buffer) {
	t.Helper()
	r = newCephRig(t)
	arguments := []string{"auth", "get-or-create-key", "client." + capsUser}
	for i, part := range strings.Split(strings.ReplaceAll(caps, "POOL", "volumes"), "'") {
		if part = strings.TrimSpace(part); part != "" || i%2 == 1 {
			arguments = append(arguments, part)
		}
	}
	key := r.run(t, "ceph", arguments...)
	t.Cleanup(func() { r.run(t, "ceph", "auth", "rm", "client."+capsUser) })
	files := cluster.Files{Config: filepath.Join(r.dir, "config.json"), Keys: filepath.Join(r.dir, "keys")}
	log = new(bytes.Buffer)
	b, err := New(t.Context(), Options{
		Clusters: userClusters{files, capsUser, key}, Dialer: librbd.Dialer{}, NamePrefix: "copies-",
		Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	check(t, err)
	t.Cleanup(b.Close)
	administrator := r.Backend
	t.Cleanup(func() { r.Backend = administrator }) // for the removal of the images
	r.Backend = b
	return r, (&rig{Backend: b}).withNodes(t), log
}

func TestOnCephCapabilitiesOfTheDocumentation(t *testing.T) {
	r, nodes, log := capsRig(t, userCaps)
	ctx := t.Context()
	v := r.create(t, r.request("v"))
	other := r.create(t, r.request("o"))
	for what, call := range map[string]func() error{
		"check":    func() error { return r.CheckHealth(ctx) },
		"get":      func() error { _, err := r.Get(ctx, v.ID); return err },
		"list":     func() error { _, _, err := r.ListVolumes(ctx, volume.Page{}); return err },
		"health":   func() error { _, err := r.Health(ctx, v.ID); return err },
		"expand":   func() error { _, err := r.Expand(ctx, v.ID, 2*volume.GiB); return err },
		"modify":   func() error { return r.Modify(ctx, v.ID, map[string]string{"maxWriteIops": "100"}) },
		"capacity": func() error { return r.readCapacity(ctx) },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.copyWithCaps(t, v)
	r.groupWithCaps(t, v, other)
	r.fenceWithCaps(t, nodes, v)
	if strings.Contains(log.String(), "cannot remove the fence") {
		t.Errorf("the fence could not be removed:\n%s", log)
	}
}

func (r *cephRig) readCapacity(ctx context.Context) error {
	_, err := r.Capacity(ctx, volume.CapacityRequest{Parameters: r.request("").Parameters})
	return err
}

// copyWithCaps makes a snapshot, reads its blocks, restores and clones, and deletes everything.
func (r *cephRig) copyWithCaps(t *testing.T, v volume.Volume) {
	t.Helper()
	ctx := t.Context()
	s, err := r.CreateSnapshot(ctx, volume.SnapshotRequest{Name: "caps", VolumeID: v.ID})
	check(t, err)
	check(t, r.Blocks(ctx, volume.BlocksRequest{SnapshotID: s.ID}, func(volume.BlockRange) error { return nil }))
	_, err = r.GetSnapshot(ctx, s.ID)
	check(t, err)
	copies := map[string]volume.Source{"restored": {SnapshotID: s.ID}, "clone": {VolumeID: v.ID}}
	var made []string
	for name, source := range copies {
		req := r.request(name)
		req.Source, req.Size, req.Range.Required = source, 3*volume.GiB, 3*volume.GiB
		_, _, err := r.Find(ctx, req)
		check(t, err)
		create := r.Restore
		if source.VolumeID != "" {
			create = r.CloneVolume
		}
		c, err := create(ctx, req)
		check(t, err)
		made = append(made, c.ID)
	}
	check(t, r.DeleteSnapshot(ctx, s.ID))
	for _, id := range made {
		check(t, r.Delete(ctx, id))
	}
}

// groupWithCaps makes a group snapshot of the volumes and deletes it.
func (r *cephRig) groupWithCaps(t *testing.T, volumes ...volume.Volume) {
	t.Helper()
	req := volume.GroupSnapshotRequest{Name: "caps"}
	for _, v := range volumes {
		req.VolumeIDs = append(req.VolumeIDs, v.ID)
	}
	g, err := r.CreateGroupSnapshot(t.Context(), req)
	check(t, err)
	check(t, r.DeleteGroupSnapshot(t.Context(), g.ID, nil))
}

// fenceWithCaps attaches the volume to a node, fences the node, and takes it back.
func (r *cephRig) fenceWithCaps(t *testing.T, nodes *kubeapitest.Server, v volume.Volume) {
	t.Helper()
	published, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	check(t, err)
	t.Cleanup(func() { r.forgetAttachment(t, published["imageID"]) })
	const address = "10.77.0.98:0/4711"
	t.Cleanup(func() { r.run(t, "ceph", "osd", "blocklist", "rm", address) })
	loseNode(t, nodes, published["fsid"], address, noderecord.Image{PoolID: 1, ID: published["imageID"]})
	check(t, r.Detach(t.Context(), v.ID, "n1"))
	nodes.Change("n1", func(n *kubeapitest.Node) { n.IsReady, n.Taints = true, nil })
	check(t, nodes.API().Annotate(t.Context(), "n1", noderecord.ClientsAnnotation, noderecord.Record{}.String()))
	_, err = r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	check(t, err)
	check(t, r.Detach(t.Context(), v.ID, "n1"))
}

// Without the extra command of the capabilities a fence is made and stays: nothing else fails.
func TestOnCephFenceStaysWithoutTheCommand(t *testing.T) {
	r, nodes, log := capsRig(t, strings.Replace(userCaps, `, allow command "osd blocklist" with blocklistop=rm`, "", 1))
	r.fenceWithCaps(t, nodes, r.create(t, r.request("v")))
	if !strings.Contains(log.String(), "cannot remove the fence") {
		t.Errorf("the log does not say that the fence stays:\n%s", log)
	}
}

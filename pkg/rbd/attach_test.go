package rbd

import (
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/must"
)

// withNodes makes the rig's backend use a Kubernetes with the nodes n1 and n2, whose plugins have
// recorded that they have mapped nothing.
func (r *rig) withNodes(t *testing.T) *kubeapitest.Server {
	t.Helper()
	s := kubeapitest.New(t)
	for _, name := range []string{"n1", "n2"} {
		s.AddNode(name)
		must.Succeed(t, s.API().Annotate(t.Context(), name, noderecord.ClientsAnnotation, noderecord.Record{}.String()))
	}
	r.opts.Nodes = s.API()
	return s
}

func attachRequest(id, node string) volume.AttachRequest {
	return volume.AttachRequest{VolumeID: id, Node: node, Access: volume.Access{Mode: volume.AccessSingleNodeWriter}}
}

func TestAttachTellsTheNodeWhichImageItIs(t *testing.T) {
	r := newRig(t)
	r.withNodes(t)
	v := r.create(t, request("pvc-1"))
	published := must.Value(r.Attach(t.Context(), attachRequest(v.ID, "n1")))(t)
	pool := r.testPool(t, "volumes", "")
	want := map[string]string{
		"clusterID": "a", "fsid": "f5c1-a", "pool": "volumes", "poolID": "1", "imageName": "csi-vol-pvc-1",
		"imageID": must.Value(pool.ImageID("csi-vol-pvc-1"))(t), "size": "1073741824",
	}
	if !maps.Equal(published, want) {
		t.Errorf("got the context %v, want %v", published, want)
	}
	volumes, _, err := r.ListVolumes(t.Context(), volume.Page{})
	if err != nil || len(volumes) != 1 || !slices.Equal(volumes[0].Nodes, []string{"n1"}) {
		t.Errorf("got %+v, %v, want the volume on n1", volumes, err)
	}
	if got := must.Value(r.Get(t.Context(), v.ID))(t); !slices.Equal(got.Nodes, []string{"n1"}) {
		t.Errorf("got the nodes %v, want n1", got.Nodes)
	}
	must.Succeed(t, r.Detach(t.Context(), v.ID, "n1"))
	if got := must.Value(r.Get(t.Context(), v.ID))(t); len(got.Nodes) != 0 {
		t.Errorf("got the nodes %v, want none", got.Nodes)
	}
}

// A volume whose node is lost moves to another node after the taint, and the first node is taken
// back when it has unmapped it.
func TestVolumeOfALostNodeMoves(t *testing.T) {
	r := newRig(t)
	nodes := r.withNodes(t)
	v := r.create(t, request("pvc-1"))
	must.Value(r.Attach(t.Context(), attachRequest(v.ID, "n1")))(t)
	m := r.server.Map("volumes", "", "csi-vol-pvc-1", fakeceph.MapOptions{})
	id := must.Value(r.testPool(t, "volumes", "").ImageID("csi-vol-pvc-1"))(t)
	record := noderecord.Record{Clients: []noderecord.Client{{
		FSID: "f5c1-a", Address: m.Address, Images: []noderecord.Image{{PoolID: 1, ID: id}},
	}}}
	must.Succeed(t, nodes.API().Annotate(t.Context(), "n1", noderecord.ClientsAnnotation, record.String()))
	m.Lose()
	volumetest.WantKind(t, r.Detach(t.Context(), v.ID, "n1"), volume.KindPrecondition, "kubectl taint nodes n1")
	nodes.Change("n1", func(n *kubeapitest.Node) { n.IsReady, n.Taints = false, []string{kubeapi.OutOfServiceTaint} })
	must.Succeed(t, r.Detach(t.Context(), v.ID, "n1"))
	if !m.IsFenced() {
		t.Error("the client of the lost node is not fenced")
	}
	must.Value(r.Attach(t.Context(), attachRequest(v.ID, "n2")))(t)
}

func TestStaticSnapshotIsAttachedForReading(t *testing.T) {
	r := newRig(t)
	r.create(t, request("pvc-1"))
	im := must.Value(r.testPool(t, "volumes", "").Open("csi-vol-pvc-1", false))(t)
	must.Succeed(t, im.CreateSnapshot("monday"))
	must.Succeed(t, im.Close())
	req := attachRequest("a/volumes/csi-vol-pvc-1@monday", "n1")
	_, err := r.Attach(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindPrecondition, "volumes/csi-vol-pvc-1@monday", "ReadOnlyMany")
	req.Access.Mode = volume.AccessMultiNodeReaderOnly
	published := must.Value(r.Attach(t.Context(), req))(t)
	if published["snapshot"] != "monday" || published["size"] != "1073741824" {
		t.Errorf("got the context %v, want the snapshot with its size", published)
	}
	must.Succeed(t, r.Detach(t.Context(), req.VolumeID, "n1"))
	req.VolumeID = "a/volumes/csi-vol-pvc-1@tuesday"
	_, err = r.Attach(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindNotFound, "tuesday")
}

func TestAttachAndDetachOfAMissingVolume(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"a/volumes/missing", "no handle"} {
		_, err := r.Attach(t.Context(), attachRequest(id, "n1"))
		volumetest.WantKind(t, err, volume.KindNotFound)
		if err := r.Detach(t.Context(), id, "n1"); err != nil && !volume.IsKind(err, volume.KindNotFound) {
			t.Errorf("%s: got %v, want success or not found", id, err)
		}
	}
	v := r.create(t, request("pvc-1"))
	r.server.Inject(fakeceph.Fault{Call: "Pool.SetMetadata", Errno: unix.ETIMEDOUT})
	_, err := r.Attach(t.Context(), attachRequest(v.ID, "n1"))
	volumetest.WantKind(t, err, volume.KindUnavailable, "ceph -s")
}

func TestAttachTellsTheNodeTheLimits(t *testing.T) {
	r := newRig(t)
	r.withNodes(t)
	v := r.create(t, request("pvc-1"))
	must.Succeed(t, r.Modify(t.Context(), v.ID, map[string]string{"maxReadBps": "1048576", "maxWriteIops": "100"}))
	published := must.Value(r.Attach(t.Context(), attachRequest(v.ID, "n1")))(t)
	limits, err := volume.ParseIOLimits(published)
	if want := (volume.IOLimits{ReadBPS: 1 << 20, WriteIOPS: 100}); err != nil || limits != want {
		t.Errorf("got %+v (%v), want %+v", limits, err, want)
	}
	for key, value := range map[string]string{"maxReadBps": "1Mi", "type": "gold"} {
		err := r.Modify(t.Context(), v.ID, map[string]string{key: value, "maxWriteBps": "1"})
		volumetest.WantKind(t, err, volume.KindInvalid, key)
	}
}

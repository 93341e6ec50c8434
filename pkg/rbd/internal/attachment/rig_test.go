package attachment

import (
	"bytes"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// This file is the set-up of the tests: a cluster with the images "locked" (with exclusive-lock),
// "plain" (without) and "data" (in a data pool), and the Nodes n1 and n2, whose plugins have
// written that nothing is mapped.

type rig struct {
	t       *testing.T
	ceph    *fakeceph.Server
	api     *kubeapitest.Server
	cluster ceph.Cluster
	pool    ceph.Pool
	log     bytes.Buffer

	withoutKubernetes bool
	records           map[string]noderecord.Record
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{
		t: t, ceph: fakeceph.New("f", "other", "rbd"), api: kubeapitest.New(t), records: make(map[string]noderecord.Record),
	}
	var err error
	r.cluster, err = fakeceph.Dialer{"a": r.ceph}.Connect(cluster.Cluster{ID: "a"})
	must.Succeed(t, err)
	t.Cleanup(r.cluster.Close)
	r.pool = must.Value(r.cluster.Pool("rbd", ""))(t)
	must.Succeed(t, r.pool.Create("locked", 1<<30, ceph.ImageOptions{Features: []string{"layering", "exclusive-lock"}}))
	must.Succeed(t, r.pool.Create("plain", 1<<30, ceph.ImageOptions{Features: []string{"layering"}}))
	must.Succeed(t, r.pool.Create("data", 1<<30, ceph.ImageOptions{Features: []string{"layering"}, DataPool: "other"}))
	for _, name := range []string{"n1", "n2"} {
		r.api.AddNode(name)
		r.write(name)
	}
	return r
}

// attachment returns the attachment of an image.
func (r *rig) attachment(image string) Attachment {
	a := Attachment{
		Cluster: r.cluster, Pool: r.pool, Name: "rbd/" + image,
		Log: slog.New(slog.NewTextHandler(&r.log, nil)), Wait: time.Millisecond,
		Open: func() (ceph.Image, error) {
			im, err := r.pool.Open(image, true)
			if errors.Is(err, unix.ENOENT) {
				return nil, volume.Errorf(volume.KindNotFound, "no image: %w", err)
			}
			return im, err
		},
	}
	if !r.withoutKubernetes {
		a.Nodes = r.api.API()
	}
	return a
}

func writer() volume.Access { return volume.Access{Mode: volume.AccessSingleNodeWriter} }

func sharedBlock() volume.Access {
	return volume.Access{Mode: volume.AccessMultiNodeMultiWriter, Block: true}
}

func (r *rig) attach(image, node string, access volume.Access) error {
	_, err := r.attachment(image).Attach(r.t.Context(), node, access)
	return err
}

func (r *rig) detach(image, node string) error {
	return r.attachment(image).Detach(r.t.Context(), node)
}

// write writes the record of a node, as its plugin does.
func (r *rig) write(node string) {
	r.t.Helper()
	must.Succeed(r.t, r.api.API().Annotate(r.t.Context(), node, noderecord.ClientsAnnotation, r.records[node].String()))
}

// mapOn maps an image on a node, whose plugin records it.
func (r *rig) mapOn(node, image string) *fakeceph.Mapping {
	r.t.Helper()
	m := r.ceph.Map("rbd", "", image, fakeceph.MapOptions{})
	record := r.records[node]
	record.Clients = append(slices.Clone(record.Clients), noderecord.Client{
		FSID: "f", Address: m.Address, Images: []noderecord.Image{
			{PoolID: r.pool.ID(), ID: must.Value(r.pool.ImageID(image))(r.t), Name: "rbd/" + image},
			{PoolID: r.pool.ID(), ID: "ffff", Name: "rbd/database"}, // shares the client
		},
	})
	r.records[node] = record
	r.write(node)
	return m
}

// unmap ends all mappings of a node, whose plugin records it.
func (r *rig) unmap(node string, m *fakeceph.Mapping) {
	m.Unmap()
	r.records[node] = noderecord.Record{}
	r.write(node)
}

// kill makes the node fail: its watches end, and kubelet no longer reports.
func (r *rig) kill(node string, m *fakeceph.Mapping) {
	m.Lose()
	r.api.Change(node, func(n *kubeapitest.Node) { n.IsReady = false })
}

func (r *rig) taint(node string) {
	r.api.Change(node, func(n *kubeapitest.Node) { n.Taints = append(n.Taints, kubeapi.OutOfServiceTaint) })
}

// restore makes the node work again, without the taint.
func (r *rig) restore(node string) {
	r.api.Change(node, func(n *kubeapitest.Node) { n.IsReady, n.Taints = true, nil })
}

// nodes returns the nodes that an image is attached to.
func (r *rig) nodes(image string) []string {
	r.t.Helper()
	id := must.Value(r.pool.ImageID(image))(r.t)
	return must.Value(NodeNames(id, must.Value(r.pool.Metadata(id))(r.t)))(r.t)
}

func (r *rig) wantNodes(image string, want ...string) {
	r.t.Helper()
	if got := r.nodes(image); !slices.Equal(got, want) {
		r.t.Errorf("image %s is attached to %v, want %v", image, got, want)
	}
}

// wantListed checks the list of the cluster.
func (r *rig) wantListed(want ...string) {
	r.t.Helper()
	if got := slices.Sorted(maps.Keys(must.Value(r.cluster.Blocklist())(r.t))); !slices.Equal(got, want) {
		r.t.Errorf("the clients %v are fenced, want %v", got, want)
	}
}

// wantFenced checks the list of the cluster, and that the Node remembers the same.
func (r *rig) wantFenced(node string, want ...string) {
	r.t.Helper()
	r.wantListed(want...)
	var remembered []string
	for _, f := range must.Value(noderecord.ParseFences(r.api.Annotation(node, noderecord.FencedAnnotation)))(r.t) {
		remembered = append(remembered, f.Address)
	}
	if !slices.Equal(remembered, want) {
		r.t.Errorf("the Node remembers the fences %v, want %v", remembered, want)
	}
}

// refuse makes the API server refuse requests of that method.
func (r *rig) refuse(method string, code int) {
	r.api.Before = func(w http.ResponseWriter, request *http.Request) bool {
		if request.Method == method {
			kubeapitest.Refuse(w, code, "refused")
		}
		return request.Method == method
	}
}

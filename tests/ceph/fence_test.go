package ceph_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
)

// This file tests a node that is cut off from Ceph while it has volumes mapped, and comes back: the
// controller fences it when its Node in Kubernetes has the taint, and no sooner.

// rigAddress is the address of this process for the nodes.
const rigAddress = "10.77.0.1"

// kubernetes is an API server in this process. The plugins use it until the end of the test.
type kubernetes struct {
	*kubeapitest.Server
	*rig
	socket string // path of the socket of the controller that uses it
}

// startKubernetes starts an API server with the Nodes of the rig, another controller that reads
// them, and the node plugins again, so that they write to them. stop starts the node plugins as
// before.
func (r *rig) startKubernetes(t *testing.T) (k *kubernetes, stop func()) {
	t.Helper()
	k = &kubernetes{
		Server: kubeapitest.Listen(t, rigAddress), rig: r, socket: filepath.Join(t.TempDir(), "csi.sock"),
	}
	address := must.Value(url.Parse(k.API().URL))(t)
	environment := []string{
		"KUBERNETES_SERVICE_HOST=" + address.Hostname(), "KUBERNETES_SERVICE_PORT=" + address.Port(),
	}
	log := must.Value(os.Create(filepath.Join(t.TempDir(), "controller.log")))(t)
	options := append(r.controllerOptions(), "--kubernetes", "--service-account-dir="+k.API().Dir)
	plugin := must.Value(csiclient.StartPluginWith(t.Context(), environment, log,
		filepath.Join(r.bin, "growvol-controller-ceph"), k.socket, options...))(t)
	t.Cleanup(func() {
		plugin.Kill()
		logOnFailure(t, log.Name())
	})
	k.AttachEverything(rbdcsi.DriverName, r.nodes[0].NodeID) // for csi-sanity, and for the node that stays
	for _, n := range r.nodes {
		k.AddNode(n.NodeID)
		for _, name := range []string{"ca.crt", "token"} {
			content := must.Value(os.ReadFile(filepath.Join(k.API().Dir, name)))(t)
			must.Succeed(t, n.guest.WriteFile(t.Context(), serviceAccountDir+"/"+name, 0o600, content))
		}
		n.restart(t, environment, "--kubernetes-node="+n.NodeID, "--service-account-dir="+serviceAccountDir)
		n.Controller = csi.NewControllerClient(plugin.Conn)
	}
	return k, func() {
		for _, n := range r.nodes {
			n.Controller = r.client()
			n.restart(t, nil)
		}
	}
}

// serviceAccountDir has the credentials for the API server in a guest.
const serviceAccountDir = "/var/lib/service-account"

// restart starts the node plugin again with another environment and further options.
func (n *node) restart(t *testing.T, environment []string, options ...string) {
	t.Helper()
	must.Succeed(t, n.plugin.Kill(testContext(t)))
	n.environment, n.options = environment, options
	n.startPlugin(t)
}

// setDown makes the Node look as that of a node that is lost, with the taint or without.
func (k *kubernetes) setDown(n *node, isOutOfService bool) {
	k.Change(n.NodeID, func(object *kubeapitest.Node) {
		object.IsReady, object.Taints = false, nil
		if isOutOfService {
			object.Taints = []string{kubeapi.OutOfServiceTaint}
		}
	})
}

// setAttached makes the VolumeAttachment of a volume and a node what Kubernetes makes it around
// ControllerPublishVolume and ControllerUnpublishVolume.
func (k *kubernetes) setAttached(n *node, v *csiclient.Volume, isAttached bool) {
	k.SetAttached(rbdcsi.DriverName, v.ID, n.NodeID, isAttached)
}

// testFencedNode tests images with the exclusive lock, which the kernel moves, and without.
func (r *rig) testFencedNode(t *testing.T) { //nolint:thelper // a test, no helper
	k, stop := r.startKubernetes(t)
	defer stop()
	for _, features := range []string{"layering,exclusive-lock", "layering"} {
		t.Run(features, func(t *testing.T) { k.testFencedNode(t, features) })
		t.Run(features+" detached before it was mapped", func(t *testing.T) { k.testLateStage(t, features) })
	}
}

// testLateStage cuts a node off that has a volume attached, but not mapped yet. When it is back,
// the volume is in use on another node: NodeStageVolume maps nothing.
func (k *kubernetes) testLateStage(t *testing.T, features string) { //nolint:thelper // a test, no helper
	back, other, ctx := k.nodes[1], k.nodes[0], testContext(t)
	v := must.Value(back.CreateWithParameters(ctx, class(map[string]string{"imageFeatures": features}), testName(t), gib,
		csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, back.Attach(ctx, v))
	k.setAttached(back, v, true)
	back.guest.Cut()
	t.Cleanup(back.guest.Restore)
	k.setDown(back, true)
	must.Succeed(t, back.Detach(ctx, v))
	k.setAttached(back, v, false)
	taken := *v
	must.Succeed(t, other.Use(ctx, &taken))
	w := other.startWriter(t, &taken)
	back.guest.Restore()
	k.Change(back.NodeID, func(object *kubeapitest.Node) { object.IsReady, object.Taints = true, nil })
	must.FailWith(t, back.Stage(ctx, v), codes.FailedPrecondition, "not attached", back.NodeID)
	_, name, _ := strings.Cut(imageOf(v.ID), "/")
	names := back.runScript(t, "cat /sys/bus/rbd/devices/*/name || true")
	if slices.Contains(strings.Fields(names), name) {
		t.Errorf("the node has mapped %s, among %s", name, names)
	}
	w.stop(t)
	w.verify(t, &taken)
	must.Succeed(t, other.Release(ctx, &taken))
	other.wantCleanFilesystem(t, &taken)
	must.Succeed(t, other.Delete(ctx, &taken))
}

func (k *kubernetes) testFencedNode(t *testing.T, features string) { //nolint:thelper // a test, no helper
	lost, other, ctx := k.nodes[1], k.nodes[0], testContext(t)
	create := func(name string) *csiclient.Volume {
		parameters := class(map[string]string{"imageFeatures": features})
		return must.Value(lost.CreateWithParameters(ctx, parameters, testName(t)+name, gib,
			csiclient.MountCapability("ext4"), nil))(t)
	}
	v, idle := create("-written"), create("-idle")
	k.setAttached(lost, v, true)
	k.setAttached(lost, idle, true)
	must.Succeed(t, lost.Use(ctx, v))
	must.Succeed(t, lost.Use(ctx, idle))
	reporter := lost.startReporter(t, v)
	reports := reporter.await(t, 20)
	address := must.Value(k.Watchers(ctx, imageOf(v.ID)))(t)[0]

	lost.guest.Cut()
	t.Cleanup(lost.guest.Restore)
	k.setDown(lost, false)
	must.FailWith(t, lost.Detach(ctx, v), codes.FailedPrecondition, address, "kubectl taint nodes "+lost.NodeID)
	k.wantNotFenced(t, address)
	k.setDown(lost, true)
	start := time.Now()
	must.Succeed(t, lost.Detach(ctx, v))
	if !slices.Contains(must.Value(k.Blocklist(ctx))(t), address) {
		t.Errorf("the client %s is not fenced", address)
	}
	t.Logf("fenced after %s", time.Since(start).Round(time.Millisecond))
	k.setAttached(lost, v, false)
	taken := *v
	must.Succeed(t, other.Use(ctx, &taken))
	t.Logf("the other node has the volume after %s", time.Since(start).Round(time.Millisecond))
	other.wantReported(t, &taken, reports)
	w := other.startWriter(t, &taken)

	lost.guest.Restore()
	must.Succeed(t, ceph.WaitUntil(ctx, "the writes of the old node fail", func(ctx context.Context) (bool, error) {
		isRunning, err := reporter.process.IsRunning(ctx)
		return !isRunning, err
	}))
	must.FailWith(t, lost.Stage(ctx, v), codes.FailedPrecondition, "not attached")
	w.stop(t)
	w.verify(t, &taken)
	other.wantReported(t, &taken, reports)
	k.testReturn(t, lost, v, idle, address)
	must.Succeed(t, other.Release(ctx, &taken))
	other.wantCleanFilesystem(t, &taken)
	must.Succeed(t, other.Delete(ctx, &taken))
}

// testReturn takes a fenced node back: it gets volumes once it has unmapped what it had.
func (k *kubernetes) testReturn(t *testing.T, lost *node, v, idle *csiclient.Volume, address string) {
	t.Helper()
	ctx := testContext(t)
	err := lost.Attach(ctx, idle)
	must.FailWith(t, err, codes.FailedPrecondition, kubeapi.OutOfServiceTaint)
	k.Change(lost.NodeID, func(object *kubeapitest.Node) { object.IsReady, object.Taints = true, nil })
	must.FailWith(t, lost.Attach(ctx, idle), codes.FailedPrecondition, address, imageOf(v.ID))
	for _, left := range []*csiclient.Volume{v, idle} {
		must.Succeed(t, lost.Unpublish(ctx, left))
		lost.retry(t, "NodeUnstageVolume", callTimeout, func(ctx context.Context) error { return lost.Unstage(ctx, left) })
	}
	must.Succeed(t, lost.Attach(ctx, idle))
	k.wantNotFenced(t, address)
	// The kernel breaks the lock that the old client could not give up, and fences that client, which
	// no longer exists, for an hour.
	must.Succeed(t, lost.Stage(ctx, idle))
	must.Succeed(t, lost.Publish(ctx, idle))
	must.Succeed(t, lost.Release(ctx, idle))
	must.Succeed(t, lost.Delete(ctx, idle))
}

func (k *kubernetes) wantNotFenced(t *testing.T, address string) {
	t.Helper()
	if slices.Contains(must.Value(k.Blocklist(t.Context()))(t), address) {
		t.Errorf("the client %s is fenced", address)
	}
}

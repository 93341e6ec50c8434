package attachment

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/kubeapi/kubeapitest"
	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/must"
)

// attached returns a rig with an image that n1 has attached and mapped.
func attached(t *testing.T, image string) (*rig, *fakeceph.Mapping) {
	t.Helper()
	r := newRig(t)
	must.Succeed(t, r.attach(image, "n1", writer()))
	return r, r.mapOn("n1", image)
}

// A node that is only unreachable is never fenced: it may be healthy, and its client has other
// images mapped. The image stays with it, with either feature set.
func TestDetachRefusesAMappedImage(t *testing.T) {
	for _, image := range []string{"locked", "plain"} {
		r, m := attached(t, image)
		volumetest.WantKind(t, r.detach(image, "n1"), volume.KindPrecondition, m.Address, "n1",
			"kubectl taint nodes n1 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
		r.kill("n1", m)
		volumetest.WantKind(t, r.detach(image, "n1"), volume.KindPrecondition, m.Address)
		volumetest.WantKind(t, r.detach(image, ""), volume.KindPrecondition, m.Address)
		volumetest.WantKind(t, r.attach(image, "n2", writer()), volume.KindPrecondition, "n1", "kubectl taint")
		r.wantNodes(image, "n1")
		r.wantFenced("n1")
	}
}

// The whole way: the node is lost, fenced, its volume taken over; the node comes back.
func TestLostNodeIsFencedAndTakenBack(t *testing.T) {
	r, m := attached(t, "plain")
	other := r.mapOn("n1", "locked") // a client of its own, of the same node
	r.kill("n1", m)
	r.taint("n1")
	must.Succeed(t, r.detach("plain", "n1"))
	r.wantFenced("n1", m.Address)
	if !m.IsFenced() || other.IsFenced() {
		t.Errorf("fenced: %t, other client %t; want the client of the image only", m.IsFenced(), other.IsFenced())
	}
	for _, want := range []string{"n1", m.Address, "rbd/database"} {
		if !strings.Contains(r.log.String(), want) {
			t.Errorf("the log does not name %s:\n%s", want, r.log.String())
		}
	}
	must.Succeed(t, r.detach("plain", "n1"))
	must.Succeed(t, r.attach("plain", "n2", writer()))
	must.Succeed(t, r.detach("plain", "n1")) // a late repetition
	r.wantNodes("plain", "n2")

	volumetest.WantKind(t, r.attach("locked", "n1", writer()), volume.KindPrecondition, "out-of-service")
	r.restore("n1")
	err := r.attach("locked", "n1", writer())
	volumetest.WantKind(t, err, volume.KindPrecondition, m.Address, "rbd/plain", "rbd/database")
	r.wantFenced("n1", m.Address)
	other.Unmap()
	r.unmap("n1", m)
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantFenced("n1")
	r.wantNodes("plain", "n2")
}

// Only a node that does not work is fenced, whatever an administrator has declared.
func TestReadyNodeIsNotFenced(t *testing.T) {
	r, m := attached(t, "locked")
	r.taint("n1")
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindUnavailable, "is ready", "kubectl taint nodes n1")
	r.wantFenced("n1")
	r.kill("n1", m)
	must.Succeed(t, r.detach("locked", "n1"))
	r.wantFenced("n1", m.Address)
}

// The Node remembers a fence before it begins: a controller that dies in between leaves no fence
// that nobody knows.
func TestFenceIsRememberedFirst(t *testing.T) {
	r, m := attached(t, "locked")
	r.kill("n1", m)
	r.taint("n1")
	r.refuse(http.MethodPatch, http.StatusForbidden)
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindDenied, "rbac.create")
	r.wantFenced("n1")
	r.refuse(http.MethodPatch, http.StatusConflict)
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindUnavailable)
	r.wantFenced("n1")
	r.api.Before = nil
	r.ceph.Inject(fakeceph.Fault{Call: "Cluster.Fence", Errno: unix.EACCES, IsLast: true})
	if err := r.detach("locked", "n1"); err == nil || !strings.Contains(err.Error(), m.Address) {
		t.Errorf("got %v, want an error that names the client", err)
	}
	r.wantNodes("locked", "n1")
	if !strings.Contains(r.api.Annotation("n1", noderecord.FencedAnnotation), m.Address) {
		t.Error("the Node does not remember the attempt")
	}
	must.Succeed(t, r.detach("locked", "n1"))
	r.wantFenced("n1", m.Address)
	r.wantNodes("locked")
}

// Detach does not believe Fence: it reads the list, and waits until the watch has ended.
func TestFenceIsVerified(t *testing.T) {
	r, m := attached(t, "plain")
	r.api.Change("n1", func(n *kubeapitest.Node) { n.IsReady = false })
	r.taint("n1")
	volumetest.WantKind(t, r.detach("plain", "n1"), volume.KindUnavailable, "watcher", m.Address)
	r.wantNodes("plain", "n1")
	m.Lose()
	must.Succeed(t, r.detach("plain", "n1"))

	r, m = attached(t, "plain")
	r.kill("n1", m)
	r.taint("n1")
	r.ceph.Inject(fakeceph.Fault{Call: "Cluster.Blocklist", Nth: 2, Do: func() {
		must.Succeed(t, r.cluster.Unfence(m.Address))
	}})
	volumetest.WantKind(t, r.detach("plain", "n1"), volume.KindUnavailable, "does not list")
	r.wantNodes("plain", "n1")
}

// Without the API server nothing is fenced and nothing is forgotten.
func TestDetachFailsWithoutTheAPIServer(t *testing.T) {
	r, m := attached(t, "locked")
	r.kill("n1", m)
	r.taint("n1")
	r.refuse(http.MethodGet, http.StatusServiceUnavailable)
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindUnavailable, "refused")
	r.wantFenced("n1")
	r.wantNodes("locked", "n1")
}

// A node counts as fenced when no storage daemon serves it, not when the monitors list it.
func TestDetachWaitsUntilNoStorageDaemonServesTheNode(t *testing.T) {
	for _, image := range []string{"plain", "data"} {
		r, m := attached(t, image)
		r.ceph.DelayMaps()
		r.kill("n1", m)
		r.taint("n1")
		pools := 1
		if image == "data" {
			pools = 2
		}
		for nth := 1; nth <= pools; nth++ {
			r.ceph.Inject(fakeceph.Fault{Call: "Pool.AwaitMap", Nth: nth, Errno: unix.ETIMEDOUT, IsLast: true})
			volumetest.WantKind(t, r.detach(image, "n1"), volume.KindUnavailable, m.Address, "storage daemons", "ceph osd tree")
			r.wantNodes(image, "n1")
			r.wantFenced("n1", m.Address)
			r.ceph.ClearFaults()
		}
		must.Succeed(t, r.detach(image, "n1")) // although the client is listed since the first attempt
		if !m.IsFenced() {
			t.Errorf("%s: the answer came while the client was served", image)
		}
		r.wantNodes(image)
	}
}

// A fence that cannot be removed does not keep a node from its volumes: its new client has another
// address.
func TestFenceThatCannotBeRemovedIsReported(t *testing.T) {
	r, m := attached(t, "locked")
	r.kill("n1", m)
	r.taint("n1")
	must.Succeed(t, r.detach("locked", "n1"))
	r.restore("n1")
	r.unmap("n1", m)
	r.ceph.Inject(fakeceph.Fault{Call: "Cluster.Unfence", Errno: unix.EACCES})
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantFenced("n1", m.Address)
	if !strings.Contains(r.log.String(), "cannot remove the fence") {
		t.Errorf("the log has no warning:\n%s", r.log.String())
	}
	r.ceph.ClearFaults()
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantFenced("n1")
}

func TestFencedNodeWithoutARecordGetsNoVolume(t *testing.T) {
	r, m := attached(t, "locked")
	r.kill("n1", m)
	r.taint("n1")
	must.Succeed(t, r.detach("locked", "n1"))
	r.restore("n1")
	r.api.Change("n1", func(n *kubeapitest.Node) { delete(n.Annotations, noderecord.ClientsAnnotation) })
	volumetest.WantKind(t, r.attach("locked", "n1", writer()), volume.KindUnavailable, "n1")
}

// A record and a watcher can contradict each other for the seconds until the watch ends.
func TestDetachWaitsForTheWatchOfAnUnmappedImage(t *testing.T) {
	r, m := attached(t, "locked")
	must.Succeed(t, r.attach("plain", "n1", writer()))
	record := r.records["n1"]
	record.Clients[0].Images = record.Clients[0].Images[1:] // the client has another image mapped
	r.write("n1")
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindUnavailable, m.Address)
	m.Lose()
	must.Succeed(t, r.detach("locked", "n1"))
}

// A mapping that cannot write needs no fence.
func TestReaderIsDetachedWithoutAFence(t *testing.T) {
	r := newRig(t)
	must.Succeed(t, r.attach("plain", "n1", volume.Access{Mode: volume.AccessMultiNodeReaderOnly}))
	m := r.mapOn("n1", "plain")
	r.kill("n1", m)
	must.Succeed(t, r.detach("plain", "n1"))
	r.wantFenced("n1")
	r.wantNodes("plain")
}

// A filesystem that one node alone reads is mapped for writing, because of its journal: the node
// keeps the image until its client is fenced.
func TestOnlyReaderOfAFilesystemIsFenced(t *testing.T) {
	r := newRig(t)
	must.Succeed(t, r.attach("plain", "n1", volume.Access{Mode: volume.AccessSingleNodeReaderOnly}))
	m := r.mapOn("n1", "plain")
	r.kill("n1", m)
	volumetest.WantKind(t, r.detach("plain", "n1"), volume.KindPrecondition, m.Address)
	r.wantNodes("plain", "n1")
	r.taint("n1")
	must.Succeed(t, r.detach("plain", "n1"))
	r.wantFenced("n1", m.Address)
	r.wantNodes("plain")
}

// Kubernetes no longer has the Node, and with it the record is gone.
func TestDetachFromADeletedNode(t *testing.T) {
	for image, isReleased := range map[string]bool{
		"locked": true, // the lock tells which client to fence
		"plain":  false,
	} {
		r, m := attached(t, image)
		r.api.RemoveNode("n1")
		volumetest.WantKind(t, r.detach(image, "n1"), volume.KindPrecondition, m.Address, "switch off")
		m.Lose()
		err := r.detach(image, "n1")
		if m.IsFenced() != isReleased {
			t.Errorf("%s: fenced %t, want %t", image, m.IsFenced(), isReleased)
		}
		if isReleased {
			must.Succeed(t, err)
			must.Succeed(t, r.attach(image, "n2", writer()))
			continue
		}
		volumetest.WantKind(t, err, volume.KindPrecondition, "rbd image-meta remove rbd/plain growvol.io/attached/n1")
		r.wantNodes(image, "n1")
		must.Succeed(t, r.pool.RemoveMetadata(must.Value(r.pool.ImageID(image))(t), "growvol.io/attached/n1"))
		must.Succeed(t, r.detach(image, "n1"))
		must.Succeed(t, r.attach(image, "n2", writer()))
	}
}

// The same for a Node without a record: its plugin may not write one.
func TestDetachFromANodeWithoutARecord(t *testing.T) {
	r, m := attached(t, "plain")
	r.api.Change("n1", func(n *kubeapitest.Node) { delete(n.Annotations, noderecord.ClientsAnnotation) })
	must.Succeed(t, r.attach("plain", "n1", writer()))
	volumetest.WantKind(t, r.detach("plain", "n1"), volume.KindPrecondition, m.Address)
	r.kill("n1", m)
	volumetest.WantKind(t, r.detach("plain", "n1"), volume.KindPrecondition, "not ready", "kubectl taint")
	r.taint("n1")
	volumetest.WantKind(t, r.detach("plain", "n1"), volume.KindPrecondition, "rbd image-meta remove")
	r.restore("n1")
	must.Succeed(t, r.detach("plain", "n1")) // kubelet works and has unmapped it
	r.wantFenced("n1")
}

// A node without a record is fenced by the lock of the image; its Node remembers that, so that the
// fence goes when the node is back.
func TestFenceOfTheLockHolderIsRemembered(t *testing.T) {
	r, m := attached(t, "locked")
	r.api.Change("n1", func(n *kubeapitest.Node) { delete(n.Annotations, noderecord.ClientsAnnotation) })
	r.kill("n1", m)
	r.taint("n1")
	r.ceph.DelayMaps()
	must.Succeed(t, r.detach("locked", "n1"))
	r.wantFenced("n1", m.Address)
	if !m.IsFenced() {
		t.Error("the answer came while the client was served")
	}
	r.restore("n1")
	r.unmap("n1", m)
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantFenced("n1")
}

// The watcher of a node that shares the image is not taken for the one that is gone.
func TestDetachFromADeletedNodeOfASharedImage(t *testing.T) {
	r := newRig(t)
	must.Succeed(t, r.attach("locked", "n1", sharedBlock()))
	must.Succeed(t, r.attach("locked", "n2", sharedBlock()))
	r.mapOn("n2", "locked")
	m := r.mapOn("n1", "locked")
	r.api.RemoveNode("n1")
	volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindPrecondition, m.Address)
	m.Lose()
	must.Succeed(t, r.detach("locked", "n1"))
	r.wantNodes("locked", "n2")
}

func TestUnreadableAnnotationsChangeNothing(t *testing.T) {
	for _, key := range []string{noderecord.ClientsAnnotation, noderecord.FencedAnnotation} {
		r, m := attached(t, "locked")
		r.kill("n1", m)
		r.taint("n1")
		r.api.Change("n1", func(n *kubeapitest.Node) { n.Annotations[key] = "{" })
		volumetest.WantKind(t, r.detach("locked", "n1"), volume.KindUnavailable, key)
		r.wantNodes("locked", "n1")
		if m.IsFenced() {
			t.Error("a client was fenced")
		}
	}
}

func TestFenceLastsLongerThanNodesAreLost(t *testing.T) {
	if fenceDuration < 365*24*time.Hour {
		t.Errorf("a fence lasts %s", fenceDuration)
	}
}

// A node can have clients of several clusters.
func TestFenceOfAnotherClusterStays(t *testing.T) {
	r, m := attached(t, "locked")
	text := noderecord.FormatFences([]noderecord.Fence{{FSID: "g", Address: m.Address, Since: "2026-11-28T16:00:00Z"}})
	must.Succeed(t, r.api.API().Annotate(t.Context(), "n1", noderecord.FencedAnnotation, text))
	must.Succeed(t, r.attach("plain", "n1", writer()))
	if got := r.api.Annotation("n1", noderecord.FencedAnnotation); got != text {
		t.Errorf("the Node remembers the fences %s, want %s", got, text)
	}
}

// A fence counts as removed only when the cluster no longer lists it.
func TestRemovalOfAFenceIsVerified(t *testing.T) {
	r, m := attached(t, "locked")
	r.kill("n1", m)
	r.taint("n1")
	must.Succeed(t, r.detach("locked", "n1"))
	r.restore("n1")
	r.unmap("n1", m)
	r.ceph.Inject(fakeceph.Fault{Call: "Cluster.Blocklist", Nth: 2, IsLast: true, Do: func() {
		must.Succeed(t, r.cluster.Fence(m.Address, fenceDuration))
	}})
	must.Succeed(t, r.attach("locked", "n1", writer()))
	r.wantFenced("n1", m.Address)
}

// The watch of a client that is fenced harms nobody, and may outlive the mapping.
func TestDetachIgnoresTheWatchOfAFencedClient(t *testing.T) {
	r, m := attached(t, "locked")
	must.Succeed(t, r.attach("plain", "n1", writer()))
	other := r.ceph.Map("rbd", "", "plain", fakeceph.MapOptions{})
	r.kill("n1", m)
	r.taint("n1")
	must.Succeed(t, r.detach("locked", "n1"))
	record := r.records["n1"]
	record.Clients[0].Images = record.Clients[0].Images[1:]
	record.Clients = append(record.Clients, noderecord.Client{
		FSID: "f", Address: other.Address, Images: []noderecord.Image{{ID: "ffff"}},
	})
	r.records["n1"] = record
	r.write("n1")
	fences := must.Value(noderecord.ParseFences(r.api.Annotation("n1", noderecord.FencedAnnotation)))(t)
	fences = append(fences, noderecord.Fence{FSID: "f", Address: other.Address})
	must.Succeed(t, r.api.API().Annotate(t.Context(), "n1", noderecord.FencedAnnotation, noderecord.FormatFences(fences)))
	must.Succeed(t, r.detach("plain", "n1"))
}

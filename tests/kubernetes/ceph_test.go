package kubernetes_test

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/must"
)

// TestCeph tests growvol from end to end: claims of a real Kubernetes are images of a real Ceph,
// and grow under pods on nodes whose kernel maps them. It is one test because its parts share the
// nodes.
func TestCeph(t *testing.T) {
	c := connectCeph(t)
	c.wantNoImagesLeft(t)
	t.Run("topology", c.testTopology)
	t.Run("in use", func(t *testing.T) {
		t.Run("node lost", c.testNodeLost) // first, because it takes longest
		for _, fs := range []string{"ext4", "xfs"} {
			t.Run(fs, c.testGrowth)
		}
		t.Run("block", c.testBlock)
		t.Run("restore", c.testRestoreIntoALargerVolume)
		t.Run("infeasible", c.testSizeAboveTheQuota)
		t.Run("group snapshot", c.testGroupSnapshot)
		t.Run("limits", c.testLimits)
	})
}

// The nodes of the tests: most tests use the first one, since pods that share a volume must run on
// one node. One test ends the second one.
const firstCephNode, secondCephNode = "ceph1", "ceph2"

// wantNoImagesLeft fails the test at its end if a pool has an image, also one in the trash.
func (c cephCluster) wantNoImagesLeft(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), waitTimeout)
		defer cancel()
		for _, pool := range []string{ceph.Pool, ceph.OtherPool, ceph.SmallPool} {
			for _, list := range [][]string{{"ls"}, {"trash", "ls"}} {
				if left, err := c.Tool(ctx, "rbd", append(list, pool)...); err != nil || left != "" {
					t.Errorf("claims and snapshots are deleted, but the pool %s still has %q (rbd %s, %v)", pool, left, list, err)
				}
			}
		}
	})
}

// cephClassName returns the StorageClass of rig/rbd.yaml for a filesystem.
func cephClassName(fs string) string { return "rbd-" + fs }

func (c cephCluster) newNamespace(t *testing.T) cephNamespace {
	t.Helper()
	s := cephNamespace{newNamespaceFor(t, cephRelease, guestKind), c}
	s.host = firstCephNode
	return s
}

// cephNamespace is a namespace whose pods run on the nodes of Ceph and whose claims are images.
type cephNamespace struct {
	namespace
	c cephCluster
}

// image returns the claim's image as Ceph's own tool shows it.
func (s cephNamespace) image(claim string) ceph.ImageInfo {
	s.Helper()
	var v struct {
		Spec struct {
			CSI struct{ VolumeAttributes map[string]string }
		}
	}
	s.get("pv/"+s.pvc(claim).Spec.VolumeName, &v)
	name := v.Spec.CSI.VolumeAttributes["imageName"]
	return must.Value(s.c.Image(s.Context(), ceph.Pool+"/"+name))(s.T)
}

// wantExpanded waits until the claim has the size in GiB, and fails the test unless Ceph and the
// pod have it too.
func (s cephNamespace) wantExpanded(claim, pod, path string, gib int64) {
	s.Helper()
	s.awaitExpanded(claim, fmt.Sprintf("%dGi", gib))
	size := volume.Size(gib) * volume.GiB
	if got := volume.Size(s.image(claim).Size); got != size {
		s.Errorf("got %s for the image of claim %s, want %s", got, claim, size)
	}
	s.wantSize(pod, path, size)
}

// testGrowth grows the filesystem of the subtest's name twice in use.
func (c cephCluster) testGrowth(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	s.createClaim(claim{name: "data", class: cephClassName(path.Base(t.Name())), size: "1Gi"})
	s.startWriter("writer", "data", false)
	s.wantSize("writer", mountPath, volume.GiB)
	wantSamePods := s.recordPods()
	for _, gib := range []int64{2, 3} {
		s.expandClaim("data", fmt.Sprintf("%dGi", gib))
		s.wantExpanded("data", "writer", mountPath, gib)
	}
	s.wantEvent("PersistentVolumeClaim", "data", "FileSystemResizeSuccessful")
	wantSamePods()
	s.wantData("writer")
}

func (c cephCluster) testBlock(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	s.createClaim(claim{name: "data", class: cephClassName("ext4"), size: "1Gi", block: true})
	s.startWriter("writer", "data", true)
	wantSamePods := s.recordPods()
	s.expandClaim("data", "2Gi")
	s.wantExpanded("data", "writer", devicePath, 2)
	wantSamePods()
	s.wantData("writer")
}

func (c cephCluster) testRestoreIntoALargerVolume(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	s.restoreLarger(cephClassName("ext4"), "rbd")
	s.wantExpanded("restored", "reader", mountPath, 2)
}

// testSizeAboveTheQuota requests a size above the quota of the pool, which is infeasible, and then
// a possible one.
func (c cephCluster) testSizeAboveTheQuota(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	must.Value(c.Tool(t.Context(), "ceph", "osd", "pool", "set-quota", ceph.SmallPool, "max_bytes", "4294967296"))(t)
	s.createClaim(claim{name: "data", class: cephClassName("quota"), size: "1Gi"})
	s.requestSize("data", "100Gi")
	s.awaitField("pvc/data", "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInfeasible")
	s.wantCondition("data", "ControllerResizeError", "quota", "100 GiB")
	s.startReader("reader", "data")
	s.expandClaim("data", "2Gi")
	s.awaitExpanded("data", "2Gi")
	s.wantSize("reader", mountPath, 2*volume.GiB)
}

// testNodeLost ends a node whose pod writes to a volume, as a loss of power does. After the node
// has the taint out-of-service, the controller fences its client, and the pod of the other node has
// every byte that the writer reported.
func (c cephCluster) testNodeLost(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	const lost = secondCephNode
	s.host = lost
	s.createClaim(claim{name: "data", class: cephClassName("ext4"), size: "1Gi"})
	s.startWriter("writer", "data", false)
	written := s.wantData("writer")
	address := c.nodes[lost].Address.String()
	must.Succeed(t, c.nodes[lost].end())
	s.eventually(func(ctx context.Context) error {
		status, err := kubectl(ctx, "get", "node", lost, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
		if err == nil && status == "True" {
			err = fmt.Errorf("the lost node %s is still ready", lost)
		}
		return err
	})
	s.kubectl("taint", "node", lost, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
	s.kubectl("wait", "--for=delete", "pod/writer", "--timeout="+waitTimeout.String())
	s.host = firstCephNode
	s.startReader("reader", "data")
	s.wantSameData("reader", written)
	fenced := must.Value(c.Blocklist(t.Context()))(t)
	if !slices.ContainsFunc(fenced, func(client string) bool { return strings.HasPrefix(client, address+":") }) {
		t.Errorf("got the fenced clients %q, want one of the lost node %s", fenced, address)
	}
}

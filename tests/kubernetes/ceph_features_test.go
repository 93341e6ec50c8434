package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/must"
)

// This file tests what only volumes of Ceph have: group snapshots, limits of the I/O, and pools
// that depend on the zone of the node.

// testGroupSnapshot takes a group snapshot of two claims while a pod writes to both, and restores
// it. The pod writes each number to the first volume before the second, so that snapshots of one
// moment have numbers that differ by one at most.
func (c cephCluster) testGroupSnapshot(t *testing.T) {
	t.Parallel()
	deleteAtEnd(t, "volumegroupsnapshotclass/growvol")
	s := c.newNamespace(t)
	claims := []string{"data", "log"}
	for _, name := range claims {
		s.createClaim(claim{name: name, class: cephClassName("ext4"), size: "1Gi"})
		s.kubectl("label", "persistentvolumeclaim", name, "group=database")
	}
	s.apply(s.pairManifest("database", "count", claims))
	s.awaitReady("database")
	s.awaitCounters("database", 20)
	s.apply(readExample(t, "rbd/groupsnapshotclass.yaml"))
	s.apply(readExample(t, "rbd/groupsnapshot.yaml"))
	s.awaitField("volumegroupsnapshot/database", "{.status.readyToUse}", "true")

	var restored []string
	for _, name := range claims {
		snapshot := s.kubectl("get", "volumesnapshots", "-o",
			"jsonpath={.items[?(@.spec.source.persistentVolumeClaimName=='"+name+"')].metadata.name}")
		s.awaitField("volumesnapshot/"+snapshot, "{.status.readyToUse}", "true")
		restored = append(restored, name+"-restored")
		s.createClaim(claim{
			name: name + "-restored", class: cephClassName("ext4"), size: "2Gi", source: "VolumeSnapshot/" + snapshot,
		})
	}
	s.apply(s.pairManifest("reader", "pause", restored))
	s.awaitReady("reader")
	got := s.runApp("reader", append([]string{"counters"}, pairPaths()...)...).Counters
	if len(got) != 2 || got[0] < 20 || got[0]-got[1] < 0 || got[0]-got[1] > 1 {
		t.Errorf("got the numbers %d on the restored volumes, want two from 20 on, the first equal to the second or "+
			"one above it", got)
	}
	s.awaitCounters("database", got[0]+20) // the pod continues to write
	s.deleteGroupSnapshot("database")
}

// deleteGroupSnapshot deletes a group snapshot, and fails the test if one of its snapshots is left.
func (s cephNamespace) deleteGroupSnapshot(name string) {
	s.Helper()
	s.kubectl("delete", "volumegroupsnapshot", name, "--timeout="+waitTimeout.String())
	s.eventually(func(ctx context.Context) error {
		left, err := kubectl(ctx, "--namespace", s.name, "get", "volumesnapshots", "-o", "name")
		if err == nil && left != "" {
			err = fmt.Errorf("the group snapshot %s is deleted, but Kubernetes still has %s", name, left)
		}
		return err
	})
}

// pairPaths returns where the pod of pairManifest has its two volumes.
func pairPaths() []string { return []string{"/data/0", "/data/1"} }

// pairManifest returns the manifest of a pod that runs a command of the application with the paths
// of its two volumes.
func (s cephNamespace) pairManifest(name, command string, claims []string) string {
	s.Helper()
	var mounts, volumes []string
	for i, path := range pairPaths() {
		mounts = append(mounts, fmt.Sprintf("{name: v%d, mountPath: %s}", i, path))
		volumes = append(volumes, fmt.Sprintf("{name: v%d, persistentVolumeClaim: {claimName: %s}}", i, claims[i]))
	}
	return s.appPod(name, command+", "+strings.Join(pairPaths(), ", "),
		"volumeMounts: ["+strings.Join(mounts, ", ")+"]", strings.Join(volumes, ", "))
}

// awaitCounters waits until the pod has written the number to both volumes.
func (s cephNamespace) awaitCounters(pod string, number int64) {
	s.Helper()
	s.eventually(func(context.Context) error {
		for _, got := range s.runApp(pod, append([]string{"counters"}, pairPaths()...)...).Counters {
			if got < number {
				return fmt.Errorf("pod %s has written the numbers up to %d, want %d", pod, got, number)
			}
		}
		return nil
	})
}

// readExample returns the text of a file of the examples.
func readExample(t *testing.T, name string) string {
	t.Helper()
	return string(must.Value(os.ReadFile(filepath.Join(moduleRoot(t), "examples", name)))(t)) //nolint:gosec // as above
}

// testLimits checks the limits that the VolumeAttributesClass of a claim gives a pod. A change of
// the class has its effect when the volume is attached the next time.
func (c cephCluster) testLimits(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	s.createClaim(claim{name: "data", class: cephClassName("ext4"), size: "1Gi", attributes: "rbd-limited"})
	s.startWriter("writer", "data", false)
	s.wantLimits("writer", "rbps=max wbps=max riops=1000 wiops=500")
	written := s.wantData("writer")

	s.kubectl("patch", "pvc", "data", "--patch", `{"spec":{"volumeAttributesClassName":"rbd-slower"}}`)
	s.awaitField("pvc/data", "{.status.currentVolumeAttributesClassName}", "rbd-slower")
	s.wantLimits("writer", "rbps=max wbps=max riops=1000 wiops=500")
	s.kubectl("delete", "pod", "writer")
	s.awaitDetached("data")
	s.startReader("reader", "data")
	s.wantLimits("reader", "rbps=max wbps=1048576 riops=max wiops=max")
	s.wantSameData("reader", written)
}

// awaitDetached waits until the claim's volume is attached to no node.
func (s cephNamespace) awaitDetached(claim string) {
	s.Helper()
	name := s.pvc(claim).Spec.VolumeName
	s.eventually(func(ctx context.Context) error {
		left, err := kubectl(ctx, "get", "volumeattachments", "-o",
			"jsonpath={.items[?(@.spec.source.persistentVolumeName=='"+name+"')].metadata.name}")
		if err == nil && left != "" {
			err = fmt.Errorf("the volume of claim %s is still attached: %s", claim, left)
		}
		return err
	})
}

// wantLimits fails the test unless io.max of the pod's control group has one line, with the limits.
// The pod has no requests of resources, and is therefore in kubelet's group besteffort.
func (s cephNamespace) wantLimits(pod, want string) {
	s.Helper()
	node := s.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
	uid := s.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	// kubelet has a mount namespace of its own, see rig/guest-node.
	out, err := s.c.nodes[node].Script(s.Context(), "cat /proc/$(pgrep -xo kubelet)/root"+
		"/sys/fs/cgroup/growvol-kubernetes/kubepods/besteffort/pod"+uid+"/io.max")
	must.Succeed(s.T, err)
	if _, got, _ := strings.Cut(out, " "); got != want {
		s.Errorf("pod %s: got io.max %q, want a device with %q", pod, out, want)
	}
}

// testTopology starts a pod in each zone. The class has a pool for each zone: the volume is in that
// of the pod's node, may be used only there, and the node reads from the replicas of its zone.
func (c cephCluster) testTopology(t *testing.T) {
	s := c.newNamespace(t)
	pools := map[string]string{firstCephNode: ceph.Pool, secondCephNode: ceph.OtherPool}
	for node := range pools {
		s.host = node
		zone := cephZone(node)
		s.createClaim(claim{name: "data-" + zone, class: "rbd-zones", size: "1Gi", pending: true})
		s.apply(s.podManifest("writer-"+zone, "data-"+zone, false, "write"))
	}
	for node, pool := range pools {
		zone := cephZone(node)
		s.awaitReady("writer-" + zone)
		s.wantPlace("data-"+zone, pool, zone)
		s.wantLocalReads(node, pool, zone)
		s.wantSize("writer-"+zone, mountPath, volume.GiB)
		s.wantData("writer-" + zone)
	}
}

// cephZone returns the zone of a node of Ceph, which its label has.
func cephZone(node string) string { return "zone-" + strings.TrimPrefix(node, "ceph") }

// wantPlace fails the test unless the claim's image is in the pool, and its volume may be used in
// the zone only.
func (s cephNamespace) wantPlace(claim, pool, zone string) {
	s.Helper()
	name := s.pvc(claim).Spec.VolumeName
	for field, want := range map[string]string{
		".spec.csi.volumeAttributes.pool":                                             pool,
		".spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*].key":    "topology.rbd.csi.ceph.com/zone",
		".spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*].values": `["` + zone + `"]`,
	} {
		if got := s.kubectl("get", "pv", name, "-o", "jsonpath={"+field+"}"); got != want {
			s.Errorf("%s: got %s=%q, want %q", claim, field, got, want)
		}
	}
}

// wantLocalReads fails the test unless the node has mapped an image of the pool with its place in
// the CRUSH map.
func (s cephNamespace) wantLocalReads(node, pool, zone string) {
	s.Helper()
	out, err := s.c.nodes[node].Script(s.Context(), "cat /sys/bus/rbd/devices/*/config_info")
	must.Succeed(s.T, err)
	for line := range strings.Lines(out) {
		if strings.Contains(line, " "+pool+" ") && strings.Contains(line, "read_from_replica=localize") &&
			strings.Contains(line, "crush_location=zone:"+zone) {
			return
		}
	}
	s.Errorf("node %s: got the mappings %q, want one of the pool %s that reads from zone:%s", node, out, pool, zone)
}

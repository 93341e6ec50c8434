package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// TestCinder tests growvol from end to end: claims of a real Kubernetes are volumes
// of a real Cinder, and grow under pods on a real Nova instance, where root has
// CAP_SYS_RESOURCE for ext3 and ext4. It is one test because its parts share the
// instance. Pods start slowly there, without hardware virtualization: what does not depend on both
// Kubernetes and Cinder is tested elsewhere, such as further growths (tests/openstack), raw
// volumes, restores with their data and growth while no pod uses the volume (the loop backend).
func TestCinder(t *testing.T) {
	c := connectCloud(t)
	t.Cleanup(func() {
		left, err := c.User.ListStorage(context.WithoutCancel(t.Context()))
		if err != nil || len(left) > 0 {
			t.Errorf("claims and snapshots are deleted, but Cinder still has %v (%v)", left, err)
		}
	})
	t.Run("delayed notification", c.testDelayedNotification) // not in parallel: it pauses nova-compute
	t.Run("woken", c.testWoken)                              // not in parallel: it checks a time
	t.Run("doctor", c.testDoctor)
	t.Run("in-tree class", c.testInTreeClass)
	t.Run("infeasible", c.testSizeAboveTheQuota)
	t.Run("extended by hand", c.testExtendedByHand)
	t.Run("encrypted", c.testEncrypted)
	t.Run("examples", c.testExamples)
}

// testDoctor checks that doctor finds nothing wrong in an installation on OpenStack, and shows the
// API versions of the cloud, which the controller has read.
func (c cloudCluster) testDoctor(t *testing.T) {
	t.Parallel()
	c.newNamespace(t).wantGrowvol(0, []string{"ok     cloud", "cinder 3.0 to 3.", "nova 2.1 to 2."}, "doctor")
}

// cloudNamespace is a namespace whose pods run on the instance and whose claims are
// Cinder volumes.
type cloudNamespace struct {
	namespace
	c cloudCluster
}

func (c cloudCluster) newNamespace(t *testing.T) cloudNamespace {
	t.Helper()
	return cloudNamespace{newNamespaceFor(t, cinderRelease, guestKind), c}
}

// className returns the StorageClass of rig/cinder.yaml for a filesystem.
func className(fs string) string { return "cinder-" + fs }

// volume returns the claim's volume as the Cinder API shows it.
func (s cloudNamespace) volume(claim string) *volumes.Volume {
	s.Helper()
	var v struct {
		Spec struct {
			CSI    struct{ VolumeHandle string }
			Cinder struct{ VolumeID string } // of the in-tree driver
		}
	}
	s.get("pv/"+s.pvc(claim).Spec.VolumeName, &v)
	return must.Value(s.c.User.Volume(s.Context(), v.Spec.CSI.VolumeHandle+v.Spec.Cinder.VolumeID))(s.T)
}

// wantCinderSize fails the test unless the Cinder API shows the size for the claim's
// volume.
func (s cloudNamespace) wantCinderSize(claim string, size volume.Size) {
	s.Helper()
	if got := volume.Size(s.volume(claim).Size) * volume.GiB; got != size {
		s.Errorf("got %s for the Cinder volume of claim %s, want %s", got, claim, size)
	}
}

// wantExpanded waits until the claim has the size in GiB, and fails the test unless
// Cinder and the pod have it too.
func (s cloudNamespace) wantExpanded(claim, pod, path string, gib int64) {
	s.Helper()
	s.awaitExpanded(claim, fmt.Sprintf("%dGi", gib))
	size := volume.Size(gib) * volume.GiB
	s.wantCinderSize(claim, size)
	s.wantSize(pod, path, size)
}

// testInTreeClass uses a StorageClass of the former in-tree driver. Its volumes are
// growvol's (CSI migration).
func (c cloudCluster) testInTreeClass(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	path := filepath.Join(moduleRoot(t), "examples", "cinder", "in-tree-storageclass.yaml")
	s.apply(string(must.Value(os.ReadFile(path))(t))) //nolint:gosec // of this repository
	deleteAtEnd(t, "storageclass/gold")
	s.createClaim(claim{name: "data", class: "gold", size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	s.expandClaim("data", "2Gi")
	s.wantExpanded("data", "writer", mountPath, 2)
	wantSamePods()
	s.wantData("writer")
	const migratedTo = `jsonpath={.metadata.annotations.pv\.kubernetes\.io/migrated-to}`
	const want = "cinder.csi.openstack.org"
	if driver := s.kubectl("get", "pv", s.pvc("data").Spec.VolumeName, "-o", migratedTo); driver != want {
		t.Errorf("got a volume that migrated to %q, want %q", driver, want)
	}
}

// testSizeAboveTheQuota requests a size above the quota, which is infeasible, and
// then a possible one.
func (c cloudCluster) testSizeAboveTheQuota(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	s.createClaim(claim{name: "data", class: className("xfs"), size: "1Gi"})
	s.requestSize("data", "1000Gi")
	s.awaitField("pvc/data", "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInfeasible")
	s.wantCondition("data", "ControllerResizeError", "quota", "1000 GiB")
	s.wantCinderSize("data", volume.GiB)
	s.startReader("reader", "data")
	s.expandClaim("data", "2Gi")
	s.wantExpanded("data", "reader", mountPath, 2)
}

// testDelayedNotification pauses nova-compute, so that Cinder grows the volume but the instance's
// device stays small: the claim keeps its size. The growth comes in the first seconds of the pod,
// so the node's first answer is an early one (podStartWindow of pkg/node), and kubelet must call
// again. Then the node plugin is killed while it waits, and nova-compute continues: the expansion
// completes without further action.
func (c cloudCluster) testDelayedNotification(t *testing.T) {
	s := c.newNamespace(t)
	s.createClaim(claim{name: "data", class: className("ext3"), size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	resume := sync.OnceFunc(func() {
		must.Succeed(t, c.ControlService(context.WithoutCancel(t.Context()), "continue", "nova-compute"))
	})
	t.Cleanup(resume) // also if the pause fails in the middle
	must.Succeed(t, c.ControlService(t.Context(), "pause", "nova-compute"))
	s.requestSize("data", "2Gi")
	s.awaitField("pvc/data", "{.status.allocatedResourceStatuses.storage}", "NodeResizeInProgress")
	s.wantCinderSize("data", 2*volume.GiB)
	_, err := kubectl(t.Context(), "--namespace", s.name,
		"wait", "--for=jsonpath={.status.capacity.storage}=2Gi", "pvc/data", "--timeout=20s")
	if err == nil {
		t.Error("got a claim of 2Gi before the device has grown, want 1Gi")
	}
	s.wantSize("writer", mountPath, volume.GiB)
	// killall fails if no such process runs.
	kill := vm.Command{Argv: []string{"busybox", "killall", "-KILL", "growvol-node"}}
	must.Value(c.instance.Run(t.Context(), kill))(t)
	resume()
	s.wantExpanded("data", "writer", mountPath, 2)
	s.wantEvent("PersistentVolumeClaim", "data", "FileSystemResizeSuccessful")
	wantSamePods()
	s.wantData("writer")
}

// testExtendedByHand extends the volume in Cinder, as an administrator does. The pod's
// filesystem grows although no claim is patched and kubelet makes no call.
func (c cloudCluster) testExtendedByHand(t *testing.T) {
	t.Parallel()
	s := c.newNamespace(t)
	s.createClaim(claim{name: "data", class: className("ext4"), size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	cloud := *c.User.Volumes
	cloud.Microversion = "3.42" // the first that extends volumes in use
	must.Succeed(t, volumes.ExtendSize(t.Context(), &cloud, s.volume("data").ID, volumes.ExtendSizeOpts{NewSize: 2}).Err)
	start := time.Now()
	s.eventually(func(context.Context) error {
		if a := s.runApp("writer", "size", mountPath); a.Filesystem < minFilesystemSize(2*volume.GiB) {
			return fmt.Errorf("got a filesystem of %d bytes on a device of %d in the pod, want 2 GiB", a.Filesystem, a.Device)
		}
		return nil
	})
	t.Logf("the pod has 2Gi %.1f s after the call of Cinder", time.Since(start).Seconds())
	s.wantSize("writer", mountPath, 2*volume.GiB)
	// A patch of the claim to the same size succeeds.
	s.expandClaim("data", "2Gi")
	s.wantExpanded("data", "writer", mountPath, 2)
	wantSamePods()
	s.wantData("writer")
}

// testEncrypted uses the class and the Secret of the example. The node encrypts the
// volume, and its device, mapping and filesystem grow in use.
func (c cloudCluster) testEncrypted(t *testing.T) {
	t.Parallel()
	deleteAtEnd(t, "storageclass/growvol-encrypted")
	s := c.newNamespace(t)
	s.apply(readExamples(s.namespace).take("cinder/encrypted.yaml"))
	s.createClaim(claim{name: "data", class: "growvol-encrypted", size: "1Gi", pending: true})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	s.expandClaim("data", "2Gi")
	s.awaitExpanded("data", "2Gi")
	s.wantCinderSize("data", 2*volume.GiB)
	const header = 16 * volume.MiB // LUKS2
	s.wantSize("writer", mountPath, 2*volume.GiB-header)
	wantSamePods()
	s.wantData("writer")
}

// testExamples applies the examples for Cinder, and the others with the classes of
// Cinder. It adds the placement on the instance to the pods.
func (c cloudCluster) testExamples(t *testing.T) {
	t.Parallel()
	// The cleanup runs after that of the namespace: classes in use are protected.
	deleteAtEnd(t, "storageclass/growvol", "volumesnapshotclass/growvol", "volumeattributesclass/gold")
	s := c.newNamespace(t)
	e := readExamples(s.namespace, "spec:\n  containers:", "spec:\n  "+s.nodePlacement()+"containers:")
	for _, class := range []string{"storageclass", "snapshotclass", "attributesclass"} {
		s.apply(e.take("cinder/" + class + ".yaml"))
	}
	s.apply(e.take("database.yaml"))
	s.awaitReady("database")
	wantSamePods := s.recordPods()
	s.apply(e.take("expansion.yaml"))
	s.awaitExpanded("database", "2Gi")
	s.wantCinderSize("database", 2*volume.GiB)
	s.wantDF("database", 2*volume.GiB)

	if kind := s.volume("database").VolumeType; kind != "ssd" {
		t.Errorf("got a Cinder volume of type %s, want the class's: ssd", kind)
	}
	s.kubectl("patch", "pvc", "database", "-p", `{"spec":{"volumeAttributesClassName":"gold"}}`)
	s.awaitField("pvc/database", "{.status.currentVolumeAttributesClassName}", "gold")
	if kind := s.volume("database").VolumeType; kind != "ssd-gold" {
		t.Errorf("got a Cinder volume of type %s, want that of the class gold: ssd-gold", kind)
	}
	wantSamePods()
	s.awaitOutput("database")
	s.apply(e.take("snapshot.yaml"))
	s.awaitField("volumesnapshot/database", "{.status.readyToUse}", "true")
	s.apply(e.take("restore.yaml"))
	s.awaitReady("database-restored")
	s.wantDF("database-restored", 3*volume.GiB)
	if log := s.must(s.exec("database-restored", "cat", "/data/log")); log == "" {
		t.Error("the restored volume does not have the log that the database wrote")
	}
}

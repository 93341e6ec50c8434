package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/vm"
)

// TestCinder is the whole road: claims of a real Kubernetes are volumes of a
// real Cinder, and grow under pods on a real Nova instance, whose kernel lets
// ext3 and ext4 grow too. It is one test so that its parts share the instance.
func TestCinder(t *testing.T) {
	c := joinCloud(t)
	t.Cleanup(func() {
		left, err := c.User.Leftovers(context.WithoutCancel(t.Context()))
		if err != nil || len(left) > 0 {
			t.Errorf("claims and snapshots are deleted, and Cinder still has %v (%v)", left, err)
		}
	})
	t.Run("late news", c.testLateNews) // first and alone: it halts nova-compute
	t.Run("in-tree class", c.testInTreeClass)
	for _, fs := range []string{"ext3", "ext4", "xfs"} {
		t.Run(fs, c.testGrowth)
	}
	t.Run("block", c.testBlock)
	t.Run("unused", c.testUnused)
	t.Run("restore", c.testRestore)
	t.Run("infeasible", c.testInfeasible)
	t.Run("extended by hand", c.testExtended)
	t.Run("encrypted", c.testEncrypted)
	t.Run("examples", c.testExamples)
}

// cloudSpace is a namespace whose pods run on the instance.
type cloudSpace struct {
	space
	c cloudCluster
}

func (c cloudCluster) space(t *testing.T) cloudSpace {
	t.Helper()
	return cloudSpace{newSpaceOf(t, release, guestKind), c}
}

// classOf is the class of rig/cinder.yaml for a filesystem.
func classOf(fs string) string { return "cinder-" + fs }

// volume is what Cinder itself says of the claim's volume.
func (s cloudSpace) volume(claim string) *volumes.Volume {
	s.Helper()
	var v struct {
		Spec struct {
			CSI    struct{ VolumeHandle string }
			Cinder struct{ VolumeID string } // of the in-tree driver
		}
	}
	s.read("pv/"+s.pvc(claim).Spec.VolumeName, &v)
	found, err := s.c.User.Volume(s.Context(), v.Spec.CSI.VolumeHandle+v.Spec.Cinder.VolumeID)
	check(s.T, err)
	return found
}

// wantCinder demands that Cinder itself says how large the claim's volume is.
func (s cloudSpace) wantCinder(claim string, size volume.Size) {
	s.Helper()
	if got := volume.Size(s.volume(claim).Size) * volume.GiB; got != size {
		s.Errorf("Cinder's volume of claim %s has %s, want %s", claim, got, size)
	}
}

// wantGrown demands the size in GiB everywhere: in the claim, in Cinder, in the
// pod.
func (s cloudSpace) wantGrown(claim, pod, path string, gib int64) {
	s.Helper()
	s.grown(claim, fmt.Sprintf("%dGi", gib))
	size := volume.Size(gib) * volume.GiB
	s.wantCinder(claim, size)
	s.wantSize(pod, path, size)
}

// testGrowth: the filesystem that the test is named after grows in use, twice
// in a row.
func (c cloudCluster) testGrowth(t *testing.T) {
	t.Parallel()
	s := c.space(t)
	s.claim(claim{name: "data", class: classOf(path.Base(t.Name())), size: "1Gi"})
	s.pod("writer", "data", false)
	s.wantSize("writer", mounted, volume.GiB)
	undisturbed := s.undisturbed()
	s.grows("data", "2Gi")
	s.wantGrown("data", "writer", mounted, 2)
	s.grows("data", "3Gi")
	s.wantGrown("data", "writer", mounted, 3)
	s.wantEvent("PersistentVolumeClaim", "data", "FileSystemResizeSuccessful")
	undisturbed()
	s.wantData("writer")
}

func (c cloudCluster) testBlock(t *testing.T) {
	t.Parallel()
	c.space(t).growsInUse(claim{name: "data", class: classOf("ext4"), size: "1Gi", block: true}, device)
}

// growsInUse makes the claim and doubles it while a pod writes to it.
func (s cloudSpace) growsInUse(of claim, path string) {
	s.Helper()
	s.claim(of)
	s.pod("writer", of.name, of.block)
	undisturbed := s.undisturbed()
	s.grows(of.name, "2Gi")
	s.wantGrown(of.name, "writer", path, 2)
	undisturbed()
	s.wantData("writer")
}

// testInTreeClass: the class of the driver that Kubernetes had of old, as
// people still have it, makes volumes of growvol's.
func (c cloudCluster) testInTreeClass(t *testing.T) {
	t.Parallel()
	s := c.space(t)
	class, err := os.ReadFile(filepath.Join(s.root(), "examples", "cinder", "in-tree-storageclass.yaml")) //nolint:gosec // of this repository
	check(t, err)
	s.apply(string(class))
	deletedAtEnd(t, "storageclass/gold")
	s.growsInUse(claim{name: "data", class: "gold", size: "1Gi"}, mounted)
	if driver := s.kubectl("get", "pv", s.pvc("data").Spec.VolumeName, "-o", `jsonpath={.metadata.annotations.pv\.kubernetes\.io/migrated-to}`); driver != "cinder.csi.openstack.org" {
		t.Errorf("the volume has migrated to %q", driver)
	}
}

// testUnused: a volume that no pod has grows in Cinder at once, and its
// filesystem when the next pod comes.
func (c cloudCluster) testUnused(t *testing.T) {
	t.Parallel()
	s := c.space(t)
	s.growsUnused(classOf("ext4"), func() { s.wantCinder("data", 2*volume.GiB) })
	s.wantGrown("data", "reader", mounted, 2)
}

func (c cloudCluster) testRestore(t *testing.T) {
	t.Parallel()
	s := c.space(t)
	s.restores(classOf("ext4"), "cinder")
	s.wantGrown("restored", "reader", mounted, 2)
}

// testInfeasible: more than the quota. The user takes it back.
func (c cloudCluster) testInfeasible(t *testing.T) {
	t.Parallel()
	s := c.space(t)
	s.claim(claim{name: "data", class: classOf("xfs"), size: "1Gi"})
	s.patch("data", "1000Gi")
	s.await("pvc/data", "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInfeasible")
	s.wantCondition("data", "ControllerResizeError", "quota", "1000 GiB")
	s.wantCinder("data", volume.GiB)
	s.reader("reader", "data")
	s.grows("data", "2Gi")
	s.wantGrown("data", "reader", mounted, 2)
}

// testLateNews: Cinder has grown the volume, and the hypervisor has not heard
// of it yet: the node waits, and the claim keeps its size. Then the node plugin
// is killed while it waits, the news comes, and all comes right by itself.
func (c cloudCluster) testLateNews(t *testing.T) {
	s := c.space(t)
	s.claim(claim{name: "data", class: classOf("ext4"), size: "1Gi"})
	s.pod("writer", "data", false)
	undisturbed := s.undisturbed()
	resume := sync.OnceFunc(func() { check(t, c.Service(context.WithoutCancel(t.Context()), "continue", "nova-compute")) })
	t.Cleanup(resume) // also if the pause is cut off
	check(t, c.Service(t.Context(), "pause", "nova-compute"))
	s.patch("data", "2Gi")
	s.await("pvc/data", "{.status.allocatedResourceStatuses.storage}", "NodeResizeInProgress")
	s.wantCinder("data", 2*volume.GiB)
	if _, err := kubectl(t.Context(), "--namespace", s.name, "wait", "--for=jsonpath={.status.capacity.storage}=2Gi", "pvc/data", "--timeout=10s"); err == nil {
		t.Error("the device has not grown, and the claim says 2Gi")
	}
	s.wantSize("writer", mounted, volume.GiB)
	_, err := c.instance.Run(t.Context(), vm.Command{Argv: []string{"busybox", "killall", "-KILL", "growvol-node"}})
	check(t, err) // an error too if there was none
	resume()
	s.wantGrown("data", "writer", mounted, 2)
	undisturbed()
	s.wantData("writer")
}

// testExtended: an administrator extends the volume in Cinder, and the pod has
// the room, although no claim was patched: kubelet knows nothing of it.
func (c cloudCluster) testExtended(t *testing.T) {
	t.Parallel()
	s := c.space(t)
	s.claim(claim{name: "data", class: classOf("ext4"), size: "1Gi"})
	s.pod("writer", "data", false)
	undisturbed := s.undisturbed()
	cloud := *c.User.Volumes
	cloud.Microversion = "3.42" // from here on Cinder extends volumes in use
	check(t, volumes.ExtendSize(t.Context(), &cloud, s.volume("data").ID, volumes.ExtendSizeOpts{NewSize: 2}).Err)
	begin := time.Now()
	s.eventually(func(context.Context) error {
		if a := s.ask("writer", "size", mounted); a.Filesystem < least(2*volume.GiB) {
			return fmt.Errorf("the pod's filesystem has %d bytes, its device %d", a.Filesystem, a.Device)
		}
		return nil
	})
	t.Logf("the pod has 2Gi %.1f s after Cinder was asked", time.Since(begin).Seconds())
	s.wantSize("writer", mounted, 2*volume.GiB)
	// The claim follows when it is patched, and finds the work done.
	s.grows("data", "2Gi")
	s.wantGrown("data", "writer", mounted, 2)
	undisturbed()
	s.wantData("writer")
}

// testEncrypted: the example's class and Secret, on real Cinder. The node
// encrypts; the volume grows in use, disk, mapping and filesystem, and Cinder
// stores nothing of what the pod writes in the clear.
func (c cloudCluster) testEncrypted(t *testing.T) {
	t.Parallel()
	deletedAtEnd(t, "storageclass/growvol-encrypted")
	s := c.space(t)
	s.apply(readExamples(s.space).take("cinder/encrypted.yaml"))
	s.claim(claim{name: "data", class: "growvol-encrypted", size: "1Gi", pending: true})
	s.pod("writer", "data", false)
	undisturbed := s.undisturbed()
	s.grows("data", "2Gi")
	s.grown("data", "2Gi")
	s.wantCinder("data", 2*volume.GiB)
	const header = 16 * volume.MiB // LUKS2
	s.wantSize("writer", mounted, 2*volume.GiB-header)
	undisturbed()
	s.wantData("writer")
}

// testExamples: those of Cinder, and the others with their classes. Where pods
// run is the test's own.
func (c cloudCluster) testExamples(t *testing.T) {
	t.Parallel()
	// After the namespace, since classes that claims name are protected.
	deletedAtEnd(t, "storageclass/growvol", "volumesnapshotclass/growvol", "volumeattributesclass/gold")
	s := c.space(t)
	e := readExamples(s.space, "spec:\n  containers:", "spec:\n  "+s.place()+"containers:")
	for _, class := range []string{"storageclass", "snapshotclass", "attributesclass"} {
		s.apply(e.take("cinder/" + class + ".yaml"))
	}
	s.apply(e.take("database.yaml"))
	s.ready("database")
	undisturbed := s.undisturbed()
	s.apply(e.take("expansion.yaml"))
	s.grown("database", "2Gi")
	s.wantCinder("database", 2*volume.GiB)
	s.wantFilesystem("database", 2*volume.GiB)

	if kind := s.volume("database").VolumeType; kind != "ssd" {
		t.Errorf("the class names the type ssd, and Cinder's volume is of type %s", kind)
	}
	s.kubectl("patch", "pvc", "database", "-p", `{"spec":{"volumeAttributesClassName":"gold"}}`)
	s.await("pvc/database", "{.status.currentVolumeAttributesClassName}", "gold")
	if kind := s.volume("database").VolumeType; kind != "ssd-gold" {
		t.Errorf("the claim has become gold, and Cinder's volume is of type %s", kind)
	}
	undisturbed()
	s.synced("database")
	s.apply(e.take("snapshot.yaml"))
	s.await("volumesnapshot/database", "{.status.readyToUse}", "true")
	s.apply(e.take("restore.yaml"))
	s.ready("database-restored")
	s.wantFilesystem("database-restored", 3*volume.GiB)
	if log := s.kubectl("exec", "database-restored", "--", "cat", "/data/log"); log == "" {
		t.Error("the restored volume has not the log that the database wrote")
	}
}

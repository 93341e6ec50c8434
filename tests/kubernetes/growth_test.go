package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// The road of this project: a claim is patched while its pod writes, and the
// pod has the larger filesystem, without having been started again.
func TestGrowthInUse(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi"})
	s.pod("writer", "data", false)
	s.wantSize("writer", mounted, volume.GiB)
	undisturbed := s.undisturbed()
	s.grows("data", "2Gi")
	s.wantSize("writer", mounted, 2*volume.GiB)
	s.grows("data", "3Gi")
	s.wantSize("writer", mounted, 3*volume.GiB)
	s.wantEvent("PersistentVolumeClaim", "data", "FileSystemResizeSuccessful")
	undisturbed()
	s.wantData("writer")
}

// ext4 grows in use as XFS does, where the kernel lets root. Where it does
// not, as on machines that withhold CAP_SYS_RESOURCE, the refusal is to be
// seen, the claim keeps its size, and the pod lives on.
func TestGrowthInUseExt4(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: ext4, size: "1Gi"})
	s.pod("writer", "data", false)
	undisturbed := s.undisturbed()
	if capable(t) {
		s.grows("data", "2Gi")
		s.wantSize("writer", mounted, 2*volume.GiB)
		undisturbed()
		s.wantData("writer")
		return
	}
	t.Log("this machine has no CAP_SYS_RESOURCE: the refusal is tested, not the growth")
	s.patch("data", "2Gi")
	// kubelet writes no event for the code FailedPrecondition, only this.
	s.wantCondition("data", "NodeResizeError", "CAP_SYS_RESOURCE", "privileged")
	if size := s.pvc("data").Status.Capacity.Storage; size != "1Gi" {
		t.Errorf("the filesystem has not grown, and the claim says %s", size)
	}
	a := s.ask("writer", "size", mounted)
	if a.Filesystem > volume.GiB.Bytes() {
		t.Errorf("the filesystem has %d bytes: it has grown, which the kernel was said to refuse", a.Filesystem)
	}
	undisturbed()
	written := s.wantData("writer")

	// A pod that comes later starts, and finds the data.
	s.kubectl("delete", "pod", "writer")
	s.reader("reader", "data")
	s.wantSameData("reader", written)
}

// capable tells whether root on this machine has CAP_SYS_RESOURCE.
func capable(t *testing.T) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	const capSysResource = 24 // linux/capability.h
	for line := range strings.Lines(string(status)) {
		if mask, found := strings.CutPrefix(line, "CapBnd:"); found {
			caps, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return caps&(1<<capSysResource) != 0
		}
	}
	t.Fatal("the kernel does not tell the capabilities of this process")
	return false
}

func TestGrowthOfBlockVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi", block: true})
	s.pod("writer", "data", true)
	undisturbed := s.undisturbed()
	s.grows("data", "2Gi")
	s.wantSize("writer", device, 2*volume.GiB)
	undisturbed()
	s.wantData("writer")
}

// A volume that no pod has grows for the next one.
func TestGrowthWhileUnused(t *testing.T) {
	t.Parallel()
	newSpace(t).growsUnused(xfs, func() {})
}

// growsUnused makes a claim of the class and doubles it while no pod has it. It
// calls pending when no node has grown it yet.
func (s space) growsUnused(class string, pending func()) {
	s.Helper()
	s.claim(claim{name: "data", class: class, size: "1Gi"})
	s.pod("writer", "data", false)
	written := s.wantData("writer")
	s.kubectl("delete", "pod", "writer")

	s.patch("data", "2Gi")
	s.wantCondition("data", "FileSystemResizePending")
	pending()
	if size := s.pvc("data").Status.Capacity.Storage; size != "1Gi" {
		s.Errorf("no node has grown the filesystem, and the claim says %s", size)
	}
	s.reader("reader", "data")
	s.grown("data", "2Gi")
	s.wantSize("reader", mounted, 2*volume.GiB)
	s.wantSameData("reader", written)
}

// The second size is asked for while the first is under way.
func TestTwoGrowthsInARow(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi"})
	s.pod("writer", "data", false)
	undisturbed := s.undisturbed()
	s.patch("data", "2Gi")
	s.grows("data", "4Gi")
	s.wantSize("writer", mounted, 4*volume.GiB)
	undisturbed()
	s.wantData("writer")
}

func TestGrowthOfAStatefulSet(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: database}
spec:
  serviceName: database
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: database}}
  template:
    metadata: {labels: {app: database}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - {name: app, image: "localhost/app:test", imagePullPolicy: Never, args: [write, /data], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOncePod], storageClassName: test-xfs, resources: {requests: {storage: 1Gi}}}
`)
	s.kubectl("rollout", "status", "statefulset/database", "--timeout="+patience.String())
	undisturbed := s.undisturbed()
	for n := range 2 {
		s.patch(fmt.Sprintf("data-database-%d", n), "2Gi")
	}
	for n := range 2 {
		s.grown(fmt.Sprintf("data-database-%d", n), "2Gi")
		s.wantSize(fmt.Sprintf("database-%d", n), mounted, 2*volume.GiB)
	}
	undisturbed()
	for n := range 2 {
		s.wantData(fmt.Sprintf("database-%d", n))
	}
}

// A volume that is made from a smaller snapshot is as large as was asked, and
// so is its filesystem; it has what was written before the snapshot, not what
// came after. The volume it comes from is in use all the time.
func TestRestoreIntoALargerVolume(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.restores(xfs, "test")
	s.grows("restored", "3Gi")
	s.wantSize("reader", mounted, 3*volume.GiB)
}

// restores makes a claim, a snapshot of it, and of that the claim "restored",
// twice as large, which the pod "reader" has.
func (s space) restores(class, snapshotClass string) {
	s.Helper()
	s.claim(claim{name: "data", class: class, size: "1Gi"})
	s.pod("writer", "data", false)
	written := s.wantData("writer")
	s.apply(`apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: saved}
spec: {volumeSnapshotClassName: ` + snapshotClass + `, source: {persistentVolumeClaimName: data}}
`)
	s.await("volumesnapshot/saved", "{.status.readyToUse}", "true")
	s.pod("later", "data", false)
	s.wantData("later")
	s.claim(claim{name: "restored", class: class, size: "2Gi", source: "VolumeSnapshot/saved"})
	s.reader("reader", "restored")
	s.wantSize("reader", mounted, 2*volume.GiB)
	s.wantSameData("reader", written)
}

func TestCloneIntoALargerVolume(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi"})
	s.pod("writer", "data", false)
	written := s.wantData("writer")
	s.claim(claim{name: "cloned", class: xfs, size: "2Gi", source: "PersistentVolumeClaim/data"})
	s.reader("reader", "cloned")
	s.wantSize("reader", mounted, 2*volume.GiB)
	s.wantSameData("reader", written)
}

// A class that does not allow growth: Kubernetes itself refuses the patch.
func TestGrowthThatTheClassForbids(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: fixed, size: "1Gi"})
	_, err := s.tryPatch("data", "2Gi")
	if err == nil || !strings.Contains(err.Error(), "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize") {
		t.Errorf("the patch was answered with %v", err)
	}
}

// A size that the backend cannot give is called infeasible, with its limit;
// the user takes it back and gets what is possible. The pod notices nothing.
func TestInfeasibleSize(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.claim(claim{name: "data", class: xfs, size: "1Gi"})
	s.pod("writer", "data", false)
	undisturbed := s.undisturbed()
	s.patch("data", "17Ti")
	s.await("pvc/data", "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInfeasible")
	s.wantCondition("data", "ControllerResizeError", "17", "Ti")
	s.wantEvent("PersistentVolumeClaim", "data", "VolumeResizeFailed", "17", "Ti")
	s.grows("data", "2Gi")
	s.wantSize("writer", mounted, 2*volume.GiB)
	undisturbed()
	s.wantData("writer")
}

// Fifty claims are patched at once.
func TestGrowthOfFiftyVolumes(t *testing.T) {
	s := newSpace(t)
	const pods, perPod = 5, 10
	var manifest, names strings.Builder
	for p := range pods {
		var mounts, volumes []string
		for v := range perPod {
			name := fmt.Sprintf("data-%d-%d", p, v)
			manifest.WriteString(claim{name: name, class: xfs, size: "512Mi"}.manifest())
			mounts = append(mounts, fmt.Sprintf("{name: v%d, mountPath: /data/%d}", v, v))
			volumes = append(volumes, fmt.Sprintf("{name: v%d, persistentVolumeClaim: {claimName: %s}}", v, name))
			names.WriteString(" pvc/" + name)
		}
		fmt.Fprintf(&manifest, `---
apiVersion: v1
kind: Pod
metadata: {name: pod-%d}
spec:
  terminationGracePeriodSeconds: 5
  containers:
    - {name: app, image: "localhost/app:test", imagePullPolicy: Never, args: [write, /data/0], volumeMounts: [%s]}
  volumes: [%s]
`, p, strings.Join(mounts, ", "), strings.Join(volumes, ", "))
	}
	claims := strings.Fields(names.String())
	s.apply(manifest.String())
	s.ready("pod-0", "pod-1", "pod-2", "pod-3", "pod-4")
	undisturbed := s.undisturbed()
	watch := s.stopwatch()
	s.patchAll(claims, "1Gi")
	watch("patched")
	s.eventually(func(context.Context) error {
		small := s.kubectl("get", "persistentvolumeclaims", "-o", "jsonpath={range .items[?(@.status.capacity.storage!='1Gi')]}{.metadata.name} {.status.capacity.storage} {end}")
		if small != "" {
			return fmt.Errorf("claims that have not grown: %s", small)
		}
		return nil
	})
	watch("grown")
	s.noFailures()
	for p := range pods {
		for v := range perPod {
			if a := s.ask(fmt.Sprintf("pod-%d", p), "size", fmt.Sprintf("/data/%d", v)); a.Device != volume.GiB.Bytes() || a.Filesystem < least(volume.GiB) {
				t.Errorf("data-%d-%d: the device has %d bytes, the filesystem %d", p, v, a.Device, a.Filesystem)
			}
		}
	}
	undisturbed()
	for p := range pods {
		s.wantData(fmt.Sprintf("pod-%d", p))
	}
}

// patchAll asks for a size for all claims, in one call of kubectl.
func (s space) patchAll(claims []string, size string) {
	s.Helper()
	var list strings.Builder
	for _, c := range claims {
		name := strings.TrimPrefix(c, "pvc/")
		list.WriteString(claim{name: name, class: xfs, size: size}.manifest())
	}
	s.must(in(s.Context(), list.String(), "kubectl", "--namespace", s.name, "apply", "--server-side", "--force-conflicts", "-f", "-"))
}

// noFailures reports every event of a failed growth in the namespace. When many
// claims grow at once, external-resizer and kubelet write to the same objects,
// and the resizer tells each of its conflicts in an event before it tries
// again: those are only logged.
func (s space) noFailures() {
	s.Helper()
	for _, reason := range []string{"VolumeResizeFailed", "FileSystemResizeFailed"} {
		events := s.kubectl("get", "events", "--field-selector", "reason="+reason, "-o", "jsonpath={range .items[*]}{.involvedObject.name}: {.message}{'\\n'}{end}")
		for _, event := range strings.Split(strings.TrimSpace(events), "\n") {
			switch {
			case event == "":
			case strings.Contains(event, "the object has been modified"):
				s.Logf("a conflict of the sidecar, which tries again: %s", event)
			default:
				s.Errorf("event %s: %s", reason, event)
			}
		}
	}
}

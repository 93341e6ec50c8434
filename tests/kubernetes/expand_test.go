package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

// A claim is patched while its pod writes, and the pod has a larger filesystem
// without a restart: growvol's main feature.
func TestExpandInUse(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	s.wantSize("writer", mountPath, volume.GiB)
	wantSamePods := s.recordPods()
	s.expandClaim("data", "2Gi")
	s.wantSize("writer", mountPath, 2*volume.GiB)
	s.expandClaim("data", "3Gi")
	s.wantSize("writer", mountPath, 3*volume.GiB)
	s.wantEvent("PersistentVolumeClaim", "data", "FileSystemResizeSuccessful")
	wantSamePods()
	s.wantData("writer")
}

// ext4 grows in use as XFS does, if root has CAP_SYS_RESOURCE. On machines without
// it, the claim has a condition with the cause and keeps its size, and the pod
// continues.
func TestExpandInUseExt4(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classExt4, size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	if hasSysResource(t) {
		s.expandClaim("data", "2Gi")
		s.wantSize("writer", mountPath, 2*volume.GiB)
		wantSamePods()
		s.wantData("writer")
		return
	}
	t.Log("this machine has no CAP_SYS_RESOURCE: the test checks the refusal")
	s.requestSize("data", "2Gi")
	// kubelet writes no event for FailedPrecondition, only this condition.
	s.wantCondition("data", "NodeResizeError", "CAP_SYS_RESOURCE", "privileged")
	if size := s.pvc("data").Status.Capacity.Storage; size != "1Gi" {
		t.Errorf("got a claim of %s, want the filesystem's 1Gi", size)
	}
	a := s.runApp("writer", "size", mountPath)
	if a.Filesystem > volume.GiB.Bytes() {
		t.Errorf("got a filesystem of %d bytes, want 1 GiB at most after the refusal", a.Filesystem)
	}
	wantSamePods()
	written := s.wantData("writer")

	// The next pod starts and has the data.
	s.kubectl("delete", "pod", "writer")
	s.startReader("reader", "data")
	s.wantSameData("reader", written)
}

// hasSysResource reports whether root on this machine has CAP_SYS_RESOURCE.
func hasSysResource(t *testing.T) bool {
	t.Helper()
	status := must.Value(os.ReadFile("/proc/self/status"))(t)
	const capSysResource = 24 // linux/capability.h
	for line := range strings.Lines(string(status)) {
		if mask, found := strings.CutPrefix(line, "CapBnd:"); found {
			caps := must.Value(strconv.ParseUint(strings.TrimSpace(mask), 16, 64))(t)
			return caps&(1<<capSysResource) != 0
		}
	}
	t.Fatal("/proc/self/status has no line CapBnd")
	return false
}

func TestExpandBlockVolumeInUse(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi", block: true})
	s.startWriter("writer", "data", true)
	wantSamePods := s.recordPods()
	s.expandClaim("data", "2Gi")
	s.wantSize("writer", devicePath, 2*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

// A volume that no pod uses grows for the next pod.
func TestExpandWhileUnused(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	written := s.wantData("writer")
	s.kubectl("delete", "pod", "writer")

	s.requestSize("data", "2Gi")
	s.wantCondition("data", "FileSystemResizePending")
	if size := s.pvc("data").Status.Capacity.Storage; size != "1Gi" {
		s.Errorf("got a claim of %s before a node has grown the filesystem, want 1Gi", size)
	}
	s.startReader("reader", "data")
	s.awaitExpanded("data", "2Gi")
	s.wantSize("reader", mountPath, 2*volume.GiB)
	s.wantSameData("reader", written)
}

// A second size is requested while the first expansion runs.
func TestSecondExpandDuringTheFirst(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	s.requestSize("data", "2Gi")
	s.expandClaim("data", "4Gi")
	s.wantSize("writer", mountPath, 4*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

func TestExpandStatefulSet(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.startStatefulSet("")
	wantSamePods := s.recordPods()
	for n := range 2 {
		s.requestSize(fmt.Sprintf("data-database-%d", n), "2Gi")
	}
	for n := range 2 {
		s.awaitExpanded(fmt.Sprintf("data-database-%d", n), "2Gi")
		s.wantSize(fmt.Sprintf("database-%d", n), mountPath, 2*volume.GiB)
	}
	wantSamePods()
	for n := range 2 {
		s.wantData(fmt.Sprintf("database-%d", n))
	}
}

// A volume that is restored from a smaller snapshot has the requested size, and so
// has its filesystem. It has the data from before the snapshot and none from after
// it. Its source is in use all the time.
func TestRestoreIntoALargerVolume(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.restoreLarger(classXFS, "test")
	s.expandClaim("restored", "3Gi")
	s.wantSize("reader", mountPath, 3*volume.GiB)
}

// restoreLarger creates a claim, a snapshot of it, and from the snapshot the claim
// "restored" of twice the size, which the pod "reader" uses.
func (s namespace) restoreLarger(class, snapshotClass string) {
	s.Helper()
	s.createClaim(claim{name: "data", class: class, size: "1Gi"})
	s.startWriter("writer", "data", false)
	written := s.wantData("writer")
	s.apply(`apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: saved}
spec: {volumeSnapshotClassName: ` + snapshotClass + `, source: {persistentVolumeClaimName: data}}
`)
	s.awaitField("volumesnapshot/saved", "{.status.readyToUse}", "true")
	s.startWriter("later", "data", false)
	s.wantData("later")
	s.createClaim(claim{name: "restored", class: class, size: "2Gi", source: "VolumeSnapshot/saved"})
	s.startReader("reader", "restored")
	s.wantSize("reader", mountPath, 2*volume.GiB)
	s.wantSameData("reader", written)
}

func TestCloneIntoALargerVolume(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	written := s.wantData("writer")
	s.createClaim(claim{name: "cloned", class: classXFS, size: "2Gi", source: "PersistentVolumeClaim/data"})
	s.startReader("reader", "cloned")
	s.wantSize("reader", mountPath, 2*volume.GiB)
	s.wantSameData("reader", written)
}

// The class does not allow expansion: Kubernetes itself refuses the patch.
func TestExpandFailsWhenTheClassForbids(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classFixed, size: "1Gi"})
	_, err := s.tryRequestSize("data", "2Gi")
	const want = "only dynamically provisioned pvc can be resized " +
		"and the storageclass that provisions the pvc must support resize"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("patch: got %v, want %q", err, want)
	}
}

// A size above the backend's limit is infeasible, and the message names the size.
// The user then requests a possible size and gets it. The pod is not restarted.
func TestExpandRecoversFromAnInfeasibleSize(t *testing.T) {
	t.Parallel()
	s := newNamespace(t)
	s.createClaim(claim{name: "data", class: classXFS, size: "1Gi"})
	s.startWriter("writer", "data", false)
	wantSamePods := s.recordPods()
	s.requestSize("data", "17Ti")
	s.awaitField("pvc/data", "{.status.allocatedResourceStatuses.storage}", "ControllerResizeInfeasible")
	s.wantCondition("data", "ControllerResizeError", "17", "Ti")
	s.wantEvent("PersistentVolumeClaim", "data", "VolumeResizeFailed", "17", "Ti")
	s.expandClaim("data", "2Gi")
	s.wantSize("writer", mountPath, 2*volume.GiB)
	wantSamePods()
	s.wantData("writer")
}

// Fifty claims are patched at once.
func TestExpandFiftyVolumesAtOnce(t *testing.T) {
	s := newNamespace(t)
	const pods, perPod = 5, 10
	var manifest, names strings.Builder
	for p := range pods {
		var mounts, volumes []string
		for v := range perPod {
			name := fmt.Sprintf("data-%d-%d", p, v)
			manifest.WriteString(claim{name: name, class: classXFS, size: "512Mi"}.manifest())
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
    - name: app
      image: localhost/app:test
      imagePullPolicy: Never
      args: [write, /data/0]
      volumeMounts: [%s]
  volumes: [%s]
`, p, strings.Join(mounts, ", "), strings.Join(volumes, ", "))
	}
	claims := strings.Fields(names.String())
	s.apply(manifest.String())
	s.awaitReady("pod-0", "pod-1", "pod-2", "pod-3", "pod-4")
	wantSamePods := s.recordPods()
	watch := s.stopwatch()
	s.requestSizes(claims, "1Gi")
	watch("patched")
	patched, touched := time.Now(), false
	s.eventually(func(context.Context) error {
		small := strings.Fields(s.kubectl("get", "persistentvolumeclaims", "-o", "jsonpath="+
			"{range .items[?(@.status.capacity.storage!='1Gi')]}{.metadata.name} {end}"))
		if len(small) == 0 {
			return nil
		}
		if !touched && time.Since(patched) > time.Minute {
			touched = true
			s.touchClaims(small)
		}
		return fmt.Errorf("these claims have not grown: %s", small)
	})
	watch("grown")
	s.wantNoFailedResize()
	for p := range pods {
		for v := range perPod {
			a := s.runApp(fmt.Sprintf("pod-%d", p), "size", fmt.Sprintf("/data/%d", v))
			if a.Device != volume.GiB.Bytes() || a.Filesystem < minFilesystemSize(volume.GiB) {
				t.Errorf("data-%d-%d: got a device of %d bytes and a filesystem of %d, want 1 GiB",
					p, v, a.Device, a.Filesystem)
			}
		}
	}
	wantSamePods()
	for p := range pods {
		s.wantData(fmt.Sprintf("pod-%d", p))
	}
}

// touchClaims changes claims of which external-resizer does not write that their volume has grown:
// version 2.3 stores the answer of its own patch in the cache of its watch (resize_status.go), also
// over a newer version. Then every retry is a conflict, until an event of the claim replaces the
// old version.
func (s namespace) touchClaims(claims []string) {
	s.Helper()
	s.Logf("after a minute these claims have not grown, and are touched for external-resizer: %s", claims)
	s.kubectl(slices.Concat([]string{"annotate", "pvc"}, claims, []string{"touched=1"})...)
}

// requestSizes requests a size for all claims, in one call of kubectl.
func (s namespace) requestSizes(claims []string, size string) {
	s.Helper()
	var list strings.Builder
	for _, c := range claims {
		name := strings.TrimPrefix(c, "pvc/")
		list.WriteString(claim{name: name, class: classXFS, size: size}.manifest())
	}
	s.must(runInCluster(s.Context(), list.String(),
		"kubectl", "--namespace", s.name, "apply", "--server-side", "--force-conflicts", "-f", "-"))
}

// wantNoFailedResize fails the test for every event of a failed resize in the
// namespace. It only logs the conflicts of many expansions at once: there
// external-resizer and kubelet write to the same objects, and external-resizer
// writes an event for each conflict before it retries.
func (s namespace) wantNoFailedResize() {
	s.Helper()
	for _, reason := range []string{"VolumeResizeFailed", "FileSystemResizeFailed"} {
		events := s.kubectl("get", "events", "--field-selector", "reason="+reason,
			"-o", "jsonpath={range .items[*]}{.involvedObject.name}: {.message}{'\\n'}{end}")
		for _, event := range strings.Split(strings.TrimSpace(events), "\n") {
			switch {
			case event == "":
			case strings.Contains(event, "the object has been modified"):
				s.Logf("a conflict that external-resizer retries: %s", event)
			default:
				s.Errorf("event %s: %s", reason, event)
			}
		}
	}
}

// startStatefulSet starts the StatefulSet database with two replicas, which write to claims of 1
// GiB. more are lines for its spec.
func (s namespace) startStatefulSet(more string) {
	s.Helper()
	s.apply(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: database, labels: {app: database}}
spec:
  serviceName: database
  replicas: 2
  podManagementPolicy: Parallel
` + more + `  selector: {matchLabels: {app: database}}
  template:
    metadata: {labels: {app: database}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: app
          image: localhost/app:test
          imagePullPolicy: Never
          args: [write, /data]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOncePod]
        storageClassName: test-xfs
        resources: {requests: {storage: 1Gi}}
`)
	s.kubectl("rollout", "status", "statefulset/database", "--timeout="+waitTimeout.String())
}

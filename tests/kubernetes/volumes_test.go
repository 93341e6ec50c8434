package kubernetes_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// The classes of rig/class.yaml and rig/loop.yaml.
const (
	xfs   = "test-xfs"
	ext4  = "test-ext4"
	fixed = "test-fixed"
)

// claim is a PersistentVolumeClaim to be made.
type claim struct {
	name, class, size string
	block             bool
	source            string // "PersistentVolumeClaim/name" or "VolumeSnapshot/name"
	pending           bool   // it has no volume before a pod names it
}

func (c claim) manifest() string {
	mode, source := "Filesystem", ""
	if c.block {
		mode = "Block"
	}
	if kind, name, found := strings.Cut(c.source, "/"); found {
		group := ""
		if kind == "VolumeSnapshot" {
			group = "apiGroup: snapshot.storage.k8s.io, "
		}
		source = fmt.Sprintf("dataSource: {%skind: %s, name: %s}, ", group, kind, name)
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec: {accessModes: [ReadWriteOnce], storageClassName: %s, volumeMode: %s, %sresources: {requests: {storage: %s}}}
`, c.name, c.class, mode, source, c.size)
}

// claim makes it and waits until it has a volume.
func (s space) claim(c claim) {
	s.Helper()
	s.apply(c.manifest())
	if !c.pending {
		s.await("pvc/"+c.name, "{.status.phase}", "Bound")
	}
}

// nodeKind is the label, and the taint, of nodes that are not the first.
const nodeKind = "growvol.io/test-node"

const (
	mounted = "/data"       // where pods see a filesystem volume
	device  = "/dev/volume" // where pods see a block volume
)

// podManifest is of a pod that runs the application on one volume.
func (s space) podManifest(name, claim string, block bool, command string) string {
	s.Helper()
	path, volume := mounted, "volumeMounts: [{name: volume, mountPath: "+mounted+"}]"
	if block {
		path, volume = device, "volumeDevices: [{name: volume, devicePath: "+device+"}]"
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %sterminationGracePeriodSeconds: 5
  containers:
    - {name: app, image: "localhost/app:test", imagePullPolicy: Never, args: [%s, %s], %s}
  volumes: [{name: volume, persistentVolumeClaim: {claimName: %s}}]
`, name, s.place(), command, path, volume, claim)
}

// place is the part of a pod's spec that brings it to the nodes of the space.
func (s space) place() string {
	if s.node == "" {
		return ""
	}
	return fmt.Sprintf("nodeSelector: {%[1]s: %[2]s}\n  tolerations: [{key: %[1]s, value: %[2]s}]\n  ", nodeKind, s.node)
}

// pod starts a pod that writes to the claim's volume, and waits for it.
func (s space) pod(name, claim string, block bool) {
	s.Helper()
	s.apply(s.podManifest(name, claim, block, "write"))
	s.ready(name)
}

// reader starts a pod that has the claim's volume and leaves it alone.
func (s space) reader(name, claim string) {
	s.Helper()
	s.apply(s.podManifest(name, claim, false, "pause"))
	s.ready(name)
}

func (s space) ready(pods ...string) {
	s.Helper()
	args := []string{"wait", "--for=condition=Ready", "--timeout=" + patience.String()}
	for _, p := range pods {
		args = append(args, "pod/"+p)
	}
	s.kubectl(args...)
}

// answer is what the application in a pod prints.
type answer struct {
	Bytes      int64  `json:"bytes"`
	Sum        string `json:"sum"`
	StallMS    int64  `json:"stall_ms"`
	Device     int64  `json:"device"`
	Filesystem int64  `json:"filesystem"`
}

// ask runs the application in a pod.
func (s space) ask(pod string, args ...string) answer {
	s.Helper()
	out := s.kubectl(append([]string{"exec", pod, "--", "/app"}, args...)...)
	var a answer
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		s.Fatalf("app %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return a
}

// patch asks for a size, as a user would.
func (s space) patch(claim, size string) {
	s.Helper()
	s.must(s.tryPatch(claim, size))
}

func (s space) tryPatch(claim, size string) (string, error) {
	return kubectl(s.Context(), "--namespace", s.name, "patch", "pvc", claim, "--patch", `{"spec":{"resources":{"requests":{"storage":"`+size+`"}}}}`)
}

// grows patches the claim and waits until Kubernetes calls it grown.
func (s space) grows(claim, size string) {
	s.Helper()
	begin := time.Now()
	s.patch(claim, size)
	s.grown(claim, size)
	s.Logf("%s has %s after %.1f s", claim, size, time.Since(begin).Seconds())
}

// grown waits until the claim has the size, and demands that the volume has it
// too and that nothing about the growth is left open.
func (s space) grown(claim, size string) {
	s.Helper()
	s.await("pvc/"+claim, "{.status.capacity.storage}", size)
	var v pv
	s.read("pv/"+s.pvc(claim).Spec.VolumeName, &v)
	if v.Spec.Capacity.Storage != size {
		s.Errorf("the claim %s has %s, its volume %s", claim, size, v.Spec.Capacity.Storage)
	}
	s.eventually(func(context.Context) error {
		status := s.pvc(claim).Status
		if slices.ContainsFunc(status.Conditions, func(c condition) bool { return strings.Contains(c.Type, "Resiz") }) || len(status.AllocatedResourceStatuses) > 0 {
			return fmt.Errorf("claim %s has grown, and still says %+v", claim, status)
		}
		return nil
	})
}

// wantSize demands that the pod sees a volume of this size, and can use it.
func (s space) wantSize(pod, path string, size volume.Size) {
	s.Helper()
	a := s.ask(pod, "size", path)
	if a.Device != size.Bytes() {
		s.Errorf("%s: the device has %d bytes, want %d", pod, a.Device, size.Bytes())
	}
	usable := size.Bytes()
	if path != device {
		if usable = least(size); a.Filesystem < usable {
			s.Errorf("%s: the filesystem has %d bytes of a volume of %d, want at least %d", pod, a.Filesystem, size.Bytes(), usable)
		}
		usable -= 256 << 20 // the data that is there, and what XFS keeps in reserve
	}
	s.ask(pod, "use", path, fmt.Sprint(usable))
}

// least is what df must show of a volume that its filesystem fills: all but the
// log of XFS or the journal of ext4, and 3 % for its tables.
func least(size volume.Size) int64 { return size.Bytes()/100*97 - 64<<20 }

// wantData ends the writing and demands that all of it can be read. It returns
// what was written.
func (s space) wantData(pod string) answer {
	s.Helper()
	a := s.ask(pod, "stop")
	if a.Bytes == 0 {
		s.Errorf("%s has written nothing", pod)
	}
	s.Logf("%s: %d MiB read back as written; longest stall %d ms", pod, a.Bytes>>20, a.StallMS)
	return a
}

// wantSameData demands that the pod finds on its volume what another pod has
// written, and nothing else.
func (s space) wantSameData(pod string, written answer) {
	s.Helper()
	if a := s.ask(pod, "verify", mounted); a.Bytes != written.Bytes || a.Sum != written.Sum {
		s.Errorf("%s: the data on the volume (%d bytes) is not what was written (%d bytes): it is of another time or another volume", pod, a.Bytes, written.Bytes)
	}
}

// pods returns what identifies the running containers of the namespace; it
// changes when any is started again.
func (s space) pods() string {
	s.Helper()
	return s.kubectl("get", "pods", "--sort-by=.metadata.name",
		"-o", "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{'\\n'}{end}")
}

// undisturbed returns a check that no pod was started again since.
func (s space) undisturbed() func() {
	s.Helper()
	before := s.pods()
	return func() {
		s.Helper()
		if after := s.pods(); after != before {
			s.Errorf("pods were started again:\n%s\n%s", before, after)
		}
	}
}

// pvc and pv are what the tests need of these objects.
type pvc struct {
	Spec struct {
		VolumeName string `json:"volumeName"`
	} `json:"spec"`
	Status struct {
		Capacity                  resources         `json:"capacity"`
		AllocatedResources        resources         `json:"allocatedResources"`
		AllocatedResourceStatuses map[string]string `json:"allocatedResourceStatuses"`
		Conditions                []condition       `json:"conditions"`
	} `json:"status"`
}

type pv struct {
	Spec struct {
		Capacity resources `json:"capacity"`
	} `json:"spec"`
}

type resources struct {
	Storage string `json:"storage"`
}

type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func (s space) pvc(name string) pvc {
	s.Helper()
	var c pvc
	s.read("pvc/"+name, &c)
	return c
}

// wantCondition waits for a condition whose message has all these words.
func (s space) wantCondition(claim, kind string, words ...string) {
	s.Helper()
	s.eventually(func(context.Context) error {
		conditions := s.pvc(claim).Status.Conditions
		if !slices.ContainsFunc(conditions, func(c condition) bool { return c.Type == kind && c.Status == "True" && containsAll(c.Message, words) }) {
			return fmt.Errorf("claim %s has no condition %s that says %q, but %+v", claim, kind, words, conditions)
		}
		return nil
	})
}

// wantEvent waits for an event of the object whose message has all these
// words.
func (s space) wantEvent(kind, name, reason string, words ...string) {
	s.Helper()
	s.eventually(func(context.Context) error {
		messages := s.kubectl("get", "events", "--field-selector", "involvedObject.kind="+kind+",involvedObject.name="+name+",reason="+reason, "-o", "jsonpath={range .items[*]}{.message}{'\\n'}{end}")
		for message := range strings.Lines(messages) {
			if containsAll(message, words) {
				s.Logf("event %s of %s: %s", reason, name, strings.TrimSpace(message))
				return nil
			}
		}
		return fmt.Errorf("%s %s has no event %s that says %q, but %q", kind, name, reason, words, messages)
	})
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
}

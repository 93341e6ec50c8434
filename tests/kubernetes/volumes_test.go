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

// The StorageClasses of rig/class.yaml and rig/loop.yaml.
const (
	classXFS   = "test-xfs"
	classExt4  = "test-ext4"
	classFixed = "test-fixed"
)

// claim is a PersistentVolumeClaim to be created.
type claim struct {
	name, class, size string
	block             bool
	source            string // "PersistentVolumeClaim/name" or "VolumeSnapshot/name"
	attributes        string // its VolumeAttributesClass; empty: none
	pending           bool   // the claim has no volume before a pod uses it
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
	if c.attributes != "" {
		source += "volumeAttributesClassName: " + c.attributes + ", "
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec: {accessModes: [ReadWriteOnce], storageClassName: %s, volumeMode: %s, %sresources: {requests: {storage: %s}}}
`, c.name, c.class, mode, source, c.size)
}

// createClaim creates the claim and waits until it has a volume.
func (s namespace) createClaim(c claim) {
	s.Helper()
	s.apply(c.manifest())
	if !c.pending {
		s.awaitField("pvc/"+c.name, "{.status.phase}", "Bound")
	}
}

// nodeKindLabel is the label, and the key of the taint, of every node but the first.
const nodeKindLabel = "growvol.io/test-node"

const (
	mountPath  = "/data"       // where pods see a filesystem volume
	devicePath = "/dev/volume" // where pods see a block volume
)

// podManifest returns the manifest of a pod that runs a command of the application
// (see app) on the volume of a claim.
func (s namespace) podManifest(name, claim string, block bool, command string) string {
	s.Helper()
	path, volume := mountPath, "volumeMounts: [{name: volume, mountPath: "+mountPath+"}]"
	if block {
		path, volume = devicePath, "volumeDevices: [{name: volume, devicePath: "+devicePath+"}]"
	}
	return s.appPod(name, command+", "+path, volume, "{name: volume, persistentVolumeClaim: {claimName: "+claim+"}}")
}

// appPod returns the manifest of a pod that runs the application with those arguments, a field with
// its mounts or devices, and its volumes.
func (s namespace) appPod(name, args, mounts, volumes string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %sterminationGracePeriodSeconds: 5
  containers:
    - name: app
      image: localhost/app:test
      imagePullPolicy: Never
      args: [%s]
      %s
  volumes: [%s]
`, name, s.nodePlacement(), args, mounts, volumes)
}

// nodePlacement returns the part of a pod's spec that selects the namespace's nodes.
func (s namespace) nodePlacement() string {
	if s.node == "" {
		return ""
	}
	host := ""
	if s.host != "" {
		host = ", kubernetes.io/hostname: " + s.host
	}
	return fmt.Sprintf("nodeSelector: {%[1]s: %[2]s%[3]s}\n  tolerations: [{key: %[1]s, value: %[2]s}]\n  ",
		nodeKindLabel, s.node, host)
}

// startWriter starts a pod that writes to the claim's volume, and waits until it is
// ready.
func (s namespace) startWriter(name, claim string, block bool) {
	s.Helper()
	s.apply(s.podManifest(name, claim, block, "write"))
	s.awaitReady(name)
}

// startReader starts a pod that mounts the claim's volume and does not write, and
// waits until it is ready.
func (s namespace) startReader(name, claim string) {
	s.Helper()
	s.apply(s.podManifest(name, claim, false, "pause"))
	s.awaitReady(name)
}

func (s namespace) awaitReady(pods ...string) {
	s.Helper()
	args := []string{"wait", "--for=condition=Ready", "--timeout=" + waitTimeout.String()}
	for _, p := range pods {
		args = append(args, "pod/"+p)
	}
	s.kubectl(args...)
}

// appReport is what the application prints, see app.
type appReport struct {
	Bytes      int64   `json:"bytes"`
	Sum        string  `json:"sum"`
	StallMS    int64   `json:"stall_ms"`
	Device     int64   `json:"device"`
	Filesystem int64   `json:"filesystem"`
	Counters   []int64 `json:"counters"`
	AtMS       int64   `json:"at_ms"`
}

// runApp runs a command of the application in a pod.
func (s namespace) runApp(pod string, args ...string) appReport {
	s.Helper()
	out := s.must(s.exec(pod, append([]string{"/app"}, args...)...))
	var a appReport
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		s.Fatalf("app %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return a
}

// requestSize patches the claim with a size, as a user does.
func (s namespace) requestSize(claim, size string) {
	s.Helper()
	s.must(s.tryRequestSize(claim, size))
}

func (s namespace) tryRequestSize(claim, size string) (string, error) {
	return kubectl(s.Context(), "--namespace", s.name, "patch", "pvc", claim,
		"--patch", `{"spec":{"resources":{"requests":{"storage":"`+size+`"}}}}`)
}

// expandClaim requests a size for the claim and waits until the claim has it.
func (s namespace) expandClaim(claim, size string) {
	s.Helper()
	start := time.Now()
	s.requestSize(claim, size)
	s.awaitExpanded(claim, size)
	s.Logf("%s has %s after %.1f s", claim, size, time.Since(start).Seconds())
}

// awaitExpanded waits until the claim has the size and no resize condition. It fails
// the test unless the PersistentVolume has the size too.
func (s namespace) awaitExpanded(claim, size string) {
	s.Helper()
	s.awaitField("pvc/"+claim, "{.status.capacity.storage}", size)
	var volumeName string
	s.eventually(func(context.Context) error {
		c := s.pvc(claim)
		volumeName = c.Spec.VolumeName
		status := c.Status
		isResize := func(c condition) bool { return strings.Contains(c.Type, "Resiz") }
		if slices.ContainsFunc(status.Conditions, isResize) || len(status.AllocatedResourceStatuses) > 0 {
			return fmt.Errorf("claim %s has grown, but its status is %+v", claim, status)
		}
		return nil
	})
	var v pv
	s.get("pv/"+volumeName, &v)
	if v.Spec.Capacity.Storage != size {
		s.Errorf("got %s for the PersistentVolume of claim %s, want %s", v.Spec.Capacity.Storage, claim, size)
	}
}

// wantSize fails the test unless the pod sees a volume of the size and can use all of
// it. path is mountPath or devicePath.
func (s namespace) wantSize(pod, path string, size volume.Size) {
	s.Helper()
	isFilesystem, usable := path != devicePath, size.Bytes()
	if isFilesystem {
		usable = minFilesystemSize(size) - 256<<20 // the data of the test and the reserve of XFS
	}
	a := s.runApp(pod, "use", path, fmt.Sprint(usable))
	if a.Device != size.Bytes() {
		s.Errorf("%s: got a device of %d bytes, want %d", pod, a.Device, size.Bytes())
	}
	if isFilesystem && a.Filesystem < minFilesystemSize(size) {
		s.Errorf("%s: got a filesystem of %d bytes on a volume of %d, want %d at least",
			pod, a.Filesystem, size.Bytes(), minFilesystemSize(size))
	}
}

// minFilesystemSize returns the size in bytes that df shows at least of a filesystem
// that fills a volume: all but the log of XFS or the journal of ext4, and 3 % for its
// tables.
func minFilesystemSize(size volume.Size) int64 { return size.Bytes()/100*97 - 64<<20 }

// wantData ends the writing of a pod, fails the test unless all data is read back,
// and returns the report.
func (s namespace) wantData(pod string) appReport {
	s.Helper()
	a := s.runApp(pod, "stop")
	if a.Bytes == 0 {
		s.Errorf("%s has written nothing", pod)
	}
	s.Logf("%s: %d MiB read back as written; longest stall %d ms", pod, a.Bytes>>20, a.StallMS)
	return a
}

// wantSameData fails the test unless the pod reads on its volume what another pod has
// written.
func (s namespace) wantSameData(pod string, written appReport) {
	s.Helper()
	if a := s.runApp(pod, "verify", mountPath); a.Bytes != written.Bytes || a.Sum != written.Sum {
		s.Errorf("%s: got %d bytes with the checksum %s on the volume, want %d bytes with %s",
			pod, a.Bytes, a.Sum, written.Bytes, written.Sum)
	}
}

// podStates returns a text that identifies the running containers of the namespace.
// It changes when one of them is restarted.
func (s namespace) podStates() string {
	s.Helper()
	const container = ".status.containerStatuses[*]"
	return s.kubectl("get", "pods", "--sort-by=.metadata.name", "-o", "jsonpath={range .items[*]}"+
		"{.metadata.name} {.metadata.uid} {"+container+".containerID} {"+container+".restartCount}{'\\n'}{end}")
}

// recordPods returns a function that fails the test if a pod was restarted since
// recordPods was called.
func (s namespace) recordPods() func() {
	s.Helper()
	before := s.podStates()
	return func() {
		s.Helper()
		if after := s.podStates(); after != before {
			s.Errorf("pods were restarted: before:\n%s\nafter:\n%s", before, after)
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

func (s namespace) pvc(name string) pvc {
	s.Helper()
	var c pvc
	s.get("pvc/"+name, &c)
	return c
}

// wantCondition waits until the claim has the condition with a message that contains
// all the words.
func (s namespace) wantCondition(claim, kind string, words ...string) {
	s.Helper()
	s.eventually(func(context.Context) error {
		conditions := s.pvc(claim).Status.Conditions
		isWanted := func(c condition) bool {
			return c.Type == kind && c.Status == "True" && containsAll(c.Message, words)
		}
		if !slices.ContainsFunc(conditions, isWanted) {
			return fmt.Errorf("claim %s: got the conditions %+v, want %s with %q", claim, conditions, kind, words)
		}
		return nil
	})
}

// wantEvent waits until the object has an event with the reason and a message that
// contains all the words.
func (s namespace) wantEvent(kind, name, reason string, words ...string) {
	s.Helper()
	s.eventually(func(context.Context) error {
		messages := s.kubectl("get", "events",
			"--field-selector", "involvedObject.kind="+kind+",involvedObject.name="+name+",reason="+reason,
			"-o", "jsonpath={range .items[*]}{.message}{'\\n'}{end}")
		for message := range strings.Lines(messages) {
			if containsAll(message, words) {
				s.Logf("event %s of %s: %s", reason, name, strings.TrimSpace(message))
				return nil
			}
		}
		return fmt.Errorf("%s %s: got the messages %q of events %s, want one with %q", kind, name, messages, reason, words)
	})
}

func containsAll(text string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
}

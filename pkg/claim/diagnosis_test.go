package claim

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/growvol/growvol/pkg/volume"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// bound returns the readings of a bound claim of 1 GiB, of the class "fast" and the driver
// loop.growvol.io, which requests the size.
func bound(request string) Objects {
	class := "fast"
	return Objects{
		Claim: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "claim-uid"},
			Spec: corev1.PersistentVolumeClaimSpec{
				VolumeName: "pvc-1", StorageClassName: &class,
				Resources: corev1.VolumeResourceRequirements{Requests: storage(request)},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: storage("1Gi")},
		},
		Volume: Reading[*corev1.PersistentVolume]{Value: &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: storage("1Gi"),
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
					Driver: "loop.growvol.io", VolumeHandle: "handle-1", FSType: "xfs",
				}},
			},
		}},
		Driver: Reading[[]Layer]{Err: errors.New("the driver gives no readings to this program")},
		ReadAt: now,
	}
}

func storage(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

// withStep adds a resize status with a condition that is 3 minutes old.
func withStep(o Objects, step, condition, message string) Objects {
	c := &o.Claim.Status
	if step != "" {
		c.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{
			corev1.ResourceStorage: corev1.ClaimResourceStatus(step),
		}
	}
	c.Conditions = append(c.Conditions, corev1.PersistentVolumeClaimCondition{
		Type: corev1.PersistentVolumeClaimConditionType(condition), Status: corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now.Add(-3 * time.Minute)), Message: message,
	})
	return o
}

// withGrownVolume gives the PersistentVolume the requested size.
func withGrownVolume(o Objects) Objects {
	o.Volume.Value.Spec.Capacity = o.Claim.Spec.Resources.Requests
	return o
}

// withPod adds a running pod whose node has the driver.
func withPod(o Objects) Objects {
	o.Pods.Value = []corev1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db-0"}, Spec: corev1.PodSpec{NodeName: "node1"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}}
	o.Node.Value = &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: "node1"},
		Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "loop.growvol.io"}}},
	}
	return o
}

// withFilesystem adds what kubelet reports, read 20 seconds ago.
func withFilesystem(o Objects, size volume.Size) Objects {
	o.Stats.Value = &VolumeStats{
		Node: "node1", Capacity: size, Used: size / 4, Available: size - size/4, ReadAt: now.Add(-20 * time.Second),
	}
	return o
}

// withManagedField adds a time at which the claim's field was written.
func withManagedField(o Objects, subresource, fields string, at time.Time) Objects {
	t := metav1.NewTime(at)
	o.Claim.ManagedFields = append(o.Claim.ManagedFields, metav1.ManagedFieldsEntry{
		Subresource: subresource, Time: &t, FieldsV1: metav1.NewFieldsV1(fields),
	})
	return o
}

const (
	requestField  = `{"f:spec":{"f:resources":{"f:requests":{"f:storage":{}}}}}`
	capacityField = `{"f:status":{"f:capacity":{"f:storage":{}}}}`
)

// short returns a claim whose capacity was written at a time, and whose filesystem has half of it.
func short(at time.Time) Objects {
	return withManagedField(withFilesystem(withPod(bound("1Gi")), 512*volume.MiB), "status", capacityField, at)
}

func TestSentences(t *testing.T) {
	unbound := bound("1Gi")
	unbound.Claim.Status.Phase = corev1.ClaimPending
	lost := bound("1Gi")
	lost.Claim.Status.Phase = corev1.ClaimLost
	noDriver := withStep(withPod(bound("2Gi")), "NodeResizePending", "FileSystemResizePending", "")
	noDriver.Node.Value.Spec.Drivers = nil
	noRight := withPod(bound("1Gi"))
	noRight.Stats.Err = errors.New("the right to get nodes/proxy is missing")
	block := withFilesystem(withPod(bound("1Gi")), volume.GiB)
	mode := corev1.PersistentVolumeBlock
	block.Claim.Spec.VolumeMode = &mode
	withEvent := withStep(bound("2Gi"), "ControllerResizeInProgress", "Resizing", "")
	withEvent.Events.Value = []corev1.Event{{
		InvolvedObject: corev1.ObjectReference{Kind: "PersistentVolumeClaim", Name: "data"}, Reason: "VolumeResizeFailed",
		LastTimestamp: metav1.NewTime(now.Add(-time.Minute)),
		Message:       "resize volume failed: rpc error: code = Unavailable desc = no answer",
	}}

	for name, test := range map[string]struct {
		objects  Objects
		severity Severity
		want     string
	}{
		"grown": {
			withFilesystem(withPod(bound("1Gi")), 960*volume.MiB), SeverityNone,
			"nothing is stuck: the claim has 1 GiB, and so has its filesystem",
		},
		"grown block volume": {block, SeverityNone, "nothing is stuck: the claim has 1 GiB, and so has its device"},
		"filesystem not read": {
			noRight, SeverityUnknown, "nothing is stuck: the claim has 1 GiB; its filesystem could not be read",
		},
		"filesystem smaller than Kubernetes says": {
			short(now.Add(-time.Hour)),
			SeverityStuck, "filesystem for 60m: Kubernetes says that the claim has 1 GiB, but the filesystem has 512 MiB: " +
				"at least 416 MiB are missing (next step: delete the pod, so that the driver grows the filesystem " +
				"when it mounts it; if it stays, read the log of the driver's node plugin)",
		},
		"reading older than the growth": {
			short(now.Add(-10 * time.Second)),
			SeverityWaits, "filesystem for 10s: the reading of the filesystem is older than the growth of the claim to 1 GiB " +
				"(next step: read the status again in a minute)",
		},
		"unseen": {
			withManagedField(bound("2Gi"), "", requestField, now.Add(-2*time.Minute)), SeverityWaits,
			"request of 2 GiB for 2m: no component has seen the request (next step: check that the driver's controller " +
				"and its sidecar csi-resizer run: both process the request when they run again)",
		},
		"storage system works": {
			withStep(bound("2Gi"), "ControllerResizeInProgress", "Resizing", ""), SeverityWaits,
			"ControllerResizeInProgress for 3m: the storage system works on it; Kubernetes repeats the call if there is " +
				"no answer (next step: wait)",
		},
		"storage system without an answer": {
			withEvent, SeverityWaits,
			"ControllerResizeInProgress for 3m: the storage system works on it; Kubernetes repeats the call if there is " +
				"no answer: no answer (the cloud is down, or slow) (next step: wait. A growth that has begun continues, and " +
				"the next call finds it)",
		},
		"volume has grown, claim not yet": {
			withGrownVolume(withStep(bound("2Gi"), "ControllerResizeInProgress", "Resizing", "")), SeverityWaits,
			"ControllerResizeInProgress for 3m: the volume has grown; csi-resizer has not written it into the claim yet " +
				"(next step: wait; if it takes more than 2 min, change the claim, so that csi-resizer reads it again: " +
				"kubectl annotate pvc data touched=1 --namespace shop)",
		},
		"volume has grown, then an error": {
			withGrownVolume(withStep(bound("2Gi"), "ControllerResizeInProgress", "ControllerResizeError",
				"failed to expand pvc: rpc error: code = Unavailable desc = no answer")),
			SeverityStuck,
			"ControllerResizeInProgress for 3m: the storage system answered with an error that may pass; Kubernetes " +
				"repeats the call: no answer (the cloud is down, or slow) (next step: wait. A growth that has begun " +
				"continues, and the next call finds it)",
		},
		"before Kubernetes 1.34": {
			withStep(bound("2Gi"), "", "Resizing", ""), SeverityWaits,
			"ControllerResizeInProgress for 3m: the storage system works on it; Kubernetes repeats the call if there is " +
				"no answer (next step: wait)",
		},
		"error that may pass": {
			withStep(bound("2Gi"), "ControllerResizeInProgress", "ControllerResizeError",
				"failed to expand pvc: rpc error: code = Internal desc = the volume is in the state error_extending"),
			SeverityStuck,
			"ControllerResizeInProgress for 3m: the storage system answered with an error that may pass; Kubernetes " +
				"repeats the call: the volume is in the state error_extending (Cinder's driver failed) (next step: ask an " +
				"administrator to check the volume and to run the command in the message)",
		},
		"infeasible": {
			withStep(bound("17Ti"), "ControllerResizeInfeasible", "ControllerResizeError",
				"rpc error: code = OutOfRange desc = expand handle-1: the size 17 TiB is above the largest size of this "+
					"backend, 16 TiB (next step: request at most 16 TiB)"),
			SeverityStuck,
			"ControllerResizeInfeasible for 3m: the storage system cannot provide that size: expand handle-1: the size " +
				"17 TiB is above the largest size of this backend, 16 TiB (next step: request at most 16 TiB; then step back " +
				"with a size that is possible, any above 1 GiB: kubectl growvol expand data 2Gi --namespace shop)",
		},
		"infeasible, of another driver": {
			withStep(bound("1200Mi"), "ControllerResizeInfeasible", "ControllerResizeError",
				"rpc error: code = InvalidArgument desc = too large"),
			SeverityStuck,
			"ControllerResizeInfeasible for 3m: the storage system cannot provide that size: too large (next step: step " +
				"back with a size that is possible, any above 1 GiB: kubectl growvol expand data 1025Mi --namespace shop)",
		},
		"node pending without a pod": {
			withStep(bound("2Gi"), "NodeResizePending", "FileSystemResizePending", ""), SeverityWaits,
			"NodeResizePending for 3m: the volume has grown; the filesystem grows when a node uses it (next step: start " +
				"a pod that uses the claim)",
		},
		"node pending with a pod": {
			withStep(withPod(bound("2Gi")), "NodeResizePending", "FileSystemResizePending", ""), SeverityWaits,
			"NodeResizePending for 3m: the volume has grown; kubelet has not noticed yet (next step: wait: kubelet " +
				"notices at the pod's next sync, up to 90 s with its default settings)",
		},
		"node without the driver": {
			noDriver, SeverityStuck,
			"NodeResizePending for 3m: kubelet of node1 does not have the driver loop.growvol.io (next step: restart the " +
				"driver's node plugin on node1, which registers it again)",
		},
		"node works": {
			withStep(withPod(bound("2Gi")), "NodeResizeInProgress", "FileSystemResizePending", ""), SeverityWaits,
			"NodeResizeInProgress for 3m: kubelet calls the node plugin (next step: wait; if it takes more than 2 min, " +
				"check that CSINode node1 lists loop.growvol.io, and the events of the pod)",
		},
		"node has a precondition": {
			withStep(withPod(bound("2Gi")), "NodeResizeInProgress", "NodeResizeError",
				"rpc error: code = FailedPrecondition desc = growing ext4 needs CAP_SYS_RESOURCE in the initial user namespace"),
			SeverityStuck,
			"NodeResizeInProgress for 3m: the node answered with an error: growing ext4 needs CAP_SYS_RESOURCE in the " +
				"initial user namespace (the node plugin runs without that capability (ext2, ext3, ext4)) (next step: run the " +
				"plugin privileged, as the chart does; then remount. With node.requireSysResource (the default) the plugin " +
				"logs this at its start (remount: scale the workload to zero, wait until kubectl get volumeattachments does " +
				"not list the PersistentVolume any more, and scale it up again))",
		},
		"node has a precondition with its own next step": {
			withStep(withPod(bound("2Gi")), "NodeResizeInProgress", "NodeResizeError",
				"rpc error: code = FailedPrecondition desc = x is wrong (next step: repair x)"),
			SeverityStuck,
			"NodeResizeInProgress for 3m: the node answered with an error: x is wrong (next step: repair x; then remount " +
				"(remount: scale the workload to zero, wait until kubectl get volumeattachments does not list the " +
				"PersistentVolume any more, and scale it up again))",
		},
		"not bound": {
			unbound, SeverityWaits,
			"claim: it is not bound to a volume (next step: read the events: kubectl describe pvc data --namespace shop)",
		},
		"lost": {
			lost, SeverityStuck, "PersistentVolume: the claim has lost its PersistentVolume pvc-1 (next step: create the " +
				"claim again, and restore its data from a snapshot)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewStatus(test.objects)
			if got := s.Diagnosis.Sentence(now); got != test.want {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			if s.Diagnosis.Severity != test.severity {
				t.Errorf("got the severity %s, want %s", s.Diagnosis.Severity, test.severity)
			}
		})
	}
}

// Only refusals that no retry can change are refusals: these end `kubectl growvol expand`.
func TestRefusedDiagnoses(t *testing.T) {
	for name, test := range map[string]struct {
		step, condition, code string
		want                  bool
	}{
		"infeasible":              {"ControllerResizeInfeasible", "ControllerResizeError", "OutOfRange", true},
		"storage error":           {"ControllerResizeInProgress", "ControllerResizeError", "FailedPrecondition", false},
		"node error":              {"NodeResizeInProgress", "NodeResizeError", "DeadlineExceeded", false},
		"node precondition":       {"NodeResizeInProgress", "NodeResizeError", "FailedPrecondition", true},
		"node infeasible":         {"NodeResizeInfeasible", "NodeResizeError", "OutOfRange", true},
		"node pending, no errors": {"NodeResizePending", "FileSystemResizePending", "", false},
	} {
		message := ""
		if test.code != "" {
			message = "rpc error: code = " + test.code + " desc = x"
		}
		s := NewStatus(withStep(withPod(bound("2Gi")), test.step, test.condition, message))
		if s.Diagnosis.Refused != test.want {
			t.Errorf("%s: got refused %t, want %t", name, s.Diagnosis.Refused, test.want)
		}
	}
}

func TestLayers(t *testing.T) {
	o := withStep(
		withFilesystem(withPod(bound("2Gi")), 960*volume.MiB),
		"NodeResizePending",
		"FileSystemResizePending",
		"",
	)
	o.Volume.Value.Spec.Capacity = storage("2Gi")
	read := func(o Objects) string {
		var all []string
		s := NewStatus(o)
		for _, l := range s.Layers {
			all = append(all, string(l.Name)+" "+l.Size.String()+" "+string(l.State))
		}
		return strings.Join(all, ", ")
	}
	want := "request 2 GiB ok, claim 1 GiB waits, PV 2 GiB ok, volume 0 B unknown, device 0 B unknown, " +
		"mapping 0 B unknown, filesystem 960 MiB waits"
	if got := read(o); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	// With the readings of the driver all layers have a size, and they come before kubelet's.
	o.Driver = Reading[[]Layer]{Value: []Layer{
		{Name: LayerVolume, Size: 2 * volume.GiB, State: StateOK},
		{Name: LayerDevice, Size: volume.GiB, State: StateShort},
		{Name: LayerMapping, State: StateAbsent},
		{Name: LayerFilesystem, Size: volume.GiB, State: StateWaits},
	}}
	want = "request 2 GiB ok, claim 1 GiB waits, PV 2 GiB ok, volume 2 GiB ok, device 1 GiB SHORT, " +
		"mapping 0 B none, filesystem 1 GiB waits"
	if got := read(o); got != want {
		t.Errorf("with readings of the driver: got\n%s\nwant\n%s", got, want)
	}

	// A layer that cannot be read says why.
	o = withPod(bound("1Gi"))
	o.Volume = Reading[*corev1.PersistentVolume]{Err: errors.New("the right to get persistentvolumes is missing")}
	o.Stats.Err = errors.New("the right to get nodes/proxy is missing")
	s := NewStatus(o)
	for name, want := range map[LayerName]string{
		LayerPV:         "the right to get persistentvolumes is missing",
		LayerFilesystem: "the right to get nodes/proxy is missing",
	} {
		if l := s.Layer(name); l.State != StateUnknown || l.Problem != want {
			t.Errorf("%s: got %s with the problem %q, want unknown with %q", name, l.State, l.Problem, want)
		}
	}
}

func TestRefusalRemedy(t *testing.T) {
	const message = "persistentvolumeclaims \"data\" is forbidden: only dynamically provisioned pvc can be resized and " +
		"the storageclass that provisions the pvc must support resize"
	want := `kubectl patch storageclass fast -p '{"allowVolumeExpansion":true}', then patch the claim again`
	if got := RefusalRemedy(message, "fast"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := RefusalRemedy("exceeded quota", "fast"); got != "" {
		t.Errorf("got %q for a message that no row has", got)
	}
}

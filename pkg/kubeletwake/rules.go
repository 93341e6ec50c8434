// Package kubeletwake makes kubelet notice at once that a volume in use has grown.
//
// kubelet compares the size of a volume with the size of its filesystem when it synchronizes the
// pod: by default up to 90 s after the growth. A changed annotation of the pod is a change of the
// pod, so that kubelet synchronizes it at once and calls NodeExpandVolume.
//
// rules.go decides which claims and pods, annotation.go has the record of what was done, which is
// the annotation itself, and reconciler.go does it.
//
// An error of NodeExpandVolume is not repeated sooner by a wake: kubelet keeps the pause of the
// volume (0.5 s, doubled up to some 2 min) in spite of a synchronization, and repeats the call by
// itself when the pause ends (nestedpendingoperations.Run of Kubernetes 1.37; measured). After
// FailedPrecondition kubelet does not call again before the volume is mounted again. Therefore one
// wake for each size is enough.
package kubeletwake

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claimcache"
)

// AnnotationEnabled on a claim or a pod turns the wake off for it, with the value "false".
const AnnotationEnabled = "growvol.io/wake-kubelet"

// waitsForKubelet reports whether the volume of the claim has grown and its filesystem waits for a
// node that has not begun.
func waitsForKubelet(c *corev1.PersistentVolumeClaim) bool {
	return c.DeletionTimestamp == nil && c.Annotations[AnnotationEnabled] != "false" &&
		c.Status.Phase == corev1.ClaimBound && c.Spec.VolumeName != "" &&
		claim.StepOf(c) == string(corev1.PersistentVolumeClaimNodeResizePending)
}

// canWake reports whether a wake of the pod has an effect and is allowed. A pod that does not run
// yet needs none: kubelet compares the sizes when it mounts the volume and when a container starts.
func canWake(p *corev1.Pod) bool {
	_, isMirror := p.Annotations[claimcache.AnnotationMirror]
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && p.Spec.NodeName != "" &&
		!isMirror && p.Annotations[AnnotationEnabled] != "false"
}

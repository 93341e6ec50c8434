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
// itself when the pause ends (nestedpendingoperations.Run of Kubernetes 1.37). After
// FailedPrecondition kubelet does not call again before the volume is mounted again. So that one
// wake for a size is enough.
package kubeletwake

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/growvol/growvol/pkg/claim"
)

const (
	// AnnotationEnabled on a claim or a pod turns the wake off for it, with the value "false".
	AnnotationEnabled = "growvol.io/wake-kubelet"
	// annotationMirror marks the copy of a static pod, which kubelet reads from a file.
	annotationMirror = "kubernetes.io/config.mirror"
	// annotationMigratedTo names the CSI driver of a PersistentVolume with an in-tree volume.
	annotationMigratedTo = "pv.kubernetes.io/migrated-to"
)

// waitsForKubelet reports whether the volume of the claim has grown and its filesystem waits for a
// node that has not begun.
func waitsForKubelet(c *corev1.PersistentVolumeClaim) bool {
	return c.DeletionTimestamp == nil && c.Annotations[AnnotationEnabled] != "false" &&
		c.Status.Phase == corev1.ClaimBound && c.Spec.VolumeName != "" &&
		claim.StepOf(c) == string(corev1.PersistentVolumeClaimNodeResizePending)
}

// driverOf returns the CSI driver of the volume. It is empty if the volume has none.
func driverOf(pv *corev1.PersistentVolume) string {
	if pv.Spec.CSI != nil {
		return pv.Spec.CSI.Driver
	}
	return pv.Annotations[annotationMigratedTo]
}

// canWake reports whether a wake of the pod has an effect and is allowed. A pod that does not run
// yet needs none: kubelet compares the sizes when it mounts the volume and when a container starts.
func canWake(p *corev1.Pod) bool {
	_, isMirror := p.Annotations[annotationMirror]
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && p.Spec.NodeName != "" &&
		!isMirror && p.Annotations[AnnotationEnabled] != "false"
}

// claimsOf returns the names of the claims whose volumes a container of the pod can write to.
// kubelet does not grow a volume for a pod that uses it read-only, or in no container.
func claimsOf(p *corev1.Pod) []string {
	var names []string
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case !isUsed(p, v.Name):
		case v.PersistentVolumeClaim != nil && !v.PersistentVolumeClaim.ReadOnly:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, p.Name+"-"+v.Name) // as Kubernetes names them
		}
	}
	return names
}

// isUsed reports whether a container of the pod uses the volume.
func isUsed(p *corev1.Pod, volume string) bool {
	for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range containers {
			for _, m := range containers[i].VolumeMounts {
				if m.Name == volume {
					return true
				}
			}
			for _, d := range containers[i].VolumeDevices {
				if d.Name == volume {
					return true
				}
			}
		}
	}
	return false
}

package bundle

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// selected are the claims of a bundle, by "namespace/name", and what belongs to them. This file
// collects it.
type selected struct {
	claims, volumes, pods map[string]bool
}

// addClaims adds the selected claims and what belongs to them.
func (r *run) addClaims(ctx context.Context) error {
	s := newClaimSources(r.Claims.Namespace)
	values := map[string]string{"namespace": r.Claims.Namespace}
	found := selected{claims: map[string]bool{}, volumes: map[string]bool{}, pods: map[string]bool{}}
	for _, name := range r.Claims.Names {
		found.claims[r.Claims.Namespace+"/"+name] = true // also if the claims cannot be read
	}
	for _, list := range []struct {
		source   source
		isWanted func(*unstructured.Unstructured) bool
	}{
		{s.claims, func(o *unstructured.Unstructured) bool { return r.selectClaim(o, found) }},
		{s.volumes, found.hasVolume},
		{s.attachments, func(o *unstructured.Unstructured) bool {
			return found.volumes[textAt(o, "spec", "source", "persistentVolumeName")]
		}},
		{s.pods, found.selectPod},
		{s.events, found.hasEvent},
	} {
		if err := r.addList(ctx, list.source, values, list.isWanted); err != nil {
			return err
		}
	}
	return nil
}

// selectClaim reports whether the claim is selected, and remembers it and its volume.
func (r *run) selectClaim(o *unstructured.Unstructured, found selected) bool {
	if !r.Claims.Has(o.GetName()) {
		return false
	}
	found.claims[o.GetNamespace()+"/"+o.GetName()] = true
	if name := textAt(o, "spec", "volumeName"); name != "" {
		found.volumes[name] = true
	}
	return true
}

// hasVolume reports whether the PersistentVolume belongs to a selected claim, and remembers it.
func (f selected) hasVolume(o *unstructured.Unstructured) bool {
	claim := textAt(o, "spec", "claimRef", "namespace") + "/" + textAt(o, "spec", "claimRef", "name")
	if f.claims[claim] {
		f.volumes[o.GetName()] = true
	}
	return f.volumes[o.GetName()]
}

// selectPod reports whether the pod uses a selected claim, and reduces it to what concerns volumes.
func (f selected) selectPod(o *unstructured.Unstructured) bool {
	var pod corev1.Pod
	if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &pod) != nil {
		return false
	}
	reduced, usesClaim := f.reducePod(&pod)
	if !usesClaim {
		return false
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(reduced)
	if err != nil {
		return false
	}
	f.pods[pod.Namespace+"/"+pod.Name] = true
	o.Object = object
	o.SetAPIVersion("v1")
	o.SetKind("Pod")
	return true
}

// reducePod returns the parts of a user's pod that concern its volumes: no environment, no command,
// no annotation, and of other volumes the name only.
func (f selected) reducePod(pod *corev1.Pod) (reduced *corev1.Pod, usesClaim bool) {
	reduced = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, Labels: pod.Labels,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
			OwnerReferences: pod.OwnerReferences,
		},
		Spec: corev1.PodSpec{NodeName: pod.Spec.NodeName, SecurityContext: reduceSecurity(pod.Spec.SecurityContext)},
		Status: corev1.PodStatus{
			Phase: pod.Status.Phase, Conditions: pod.Status.Conditions, Reason: pod.Status.Reason,
			StartTime: pod.Status.StartTime, QOSClass: pod.Status.QOSClass,
		},
	}
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			usesClaim = usesClaim || f.claims[pod.Namespace+"/"+v.PersistentVolumeClaim.ClaimName]
		case v.Ephemeral != nil:
			usesClaim = usesClaim || f.claims[pod.Namespace+"/"+pod.Name+"-"+v.Name]
			v.Ephemeral = &corev1.EphemeralVolumeSource{}
		default:
			v = corev1.Volume{Name: v.Name}
		}
		reduced.Spec.Volumes = append(reduced.Spec.Volumes, v)
	}
	for _, c := range pod.Spec.Containers {
		reduced.Spec.Containers = append(reduced.Spec.Containers, corev1.Container{
			Name: c.Name, VolumeMounts: c.VolumeMounts, VolumeDevices: c.VolumeDevices,
		})
	}
	for _, c := range pod.Status.ContainerStatuses {
		reduced.Status.ContainerStatuses = append(reduced.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: c.Ready, RestartCount: c.RestartCount, Started: c.Started,
		})
	}
	return reduced, usesClaim
}

// reduceSecurity returns what decides about the owner of the files of a volume.
func reduceSecurity(context *corev1.PodSecurityContext) *corev1.PodSecurityContext {
	if context == nil {
		return nil
	}
	return &corev1.PodSecurityContext{
		FSGroup: context.FSGroup, FSGroupChangePolicy: context.FSGroupChangePolicy,
		SELinuxOptions: context.SELinuxOptions, SELinuxChangePolicy: context.SELinuxChangePolicy,
	}
}

// hasEvent reports whether the event is of a selected claim or of its volume, or of a pod of it and
// concerns volumes.
func (f selected) hasEvent(o *unstructured.Unstructured) bool {
	kind, name := textAt(o, "involvedObject", "kind"), textAt(o, "involvedObject", "name")
	key := textAt(o, "involvedObject", "namespace") + "/" + name
	switch kind {
	case "PersistentVolumeClaim":
		return f.claims[key]
	case "PersistentVolume":
		return f.volumes[name]
	case "Pod":
		reason := textAt(o, "reason")
		return f.pods[key] && slices.ContainsFunc([]string{"Volume", "Mount", "Attach", "FileSystem", "Sched"},
			func(part string) bool { return strings.Contains(reason, part) })
	}
	return false
}

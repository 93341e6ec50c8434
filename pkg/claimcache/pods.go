// Package claimcache is what the tasks of growvol-operator read: the pods that run with a claim,
// from a cache that keeps little of each pod, and the volume of a claim, from the API server.
package claimcache

import (
	"context"
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// IndexClaims is the index of pods by the names of the claims that they can write to.
	IndexClaims = "growvol.io/claims"
	// IndexAutoresizer is the index of the pods of pvc-autoresizer.
	IndexAutoresizer = "growvol.io/autoresizer"
	// labelName is the label with which charts name a program.
	labelName = "app.kubernetes.io/name"
	// autoresizer is that name, and the last part of the image's.
	autoresizer = "pvc-autoresizer"
	// AnnotationMirror marks the copy of a static pod, which kubelet reads from a file.
	AnnotationMirror = "kubernetes.io/config.mirror"
	// annotationPrefix is that of the annotations that the tasks read.
	annotationPrefix = "growvol.io/"
)

// Pods returns how a cache keeps pods: those that run, without what the tasks do not read, since a
// cluster may have many.
func Pods() cache.ByObject {
	return cache.ByObject{
		Field:     fields.OneTermEqualSelector("status.phase", string(corev1.PodRunning)),
		Transform: func(object any) (any, error) { return reduce(object), nil },
	}
}

// AddIndex adds the indexes that PodsOf and AutoresizerPod need.
func AddIndex(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &corev1.Pod{}, IndexClaims, ClaimsOf); err != nil {
		return fmt.Errorf("index the pods by claim: %w", err)
	}
	if err := indexer.IndexField(ctx, &corev1.Pod{}, IndexAutoresizer, AutoresizersOf); err != nil {
		return fmt.Errorf("index the pods of pvc-autoresizer: %w", err)
	}
	return nil
}

// AutoresizerPod returns namespace and name of a pod in the cache that runs pvc-autoresizer, or an
// empty text.
func AutoresizerPod(ctx context.Context, cached client.Reader) (string, error) {
	var pods corev1.PodList
	if err := cached.List(ctx, &pods, client.MatchingFields{IndexAutoresizer: autoresizer}); err != nil {
		return "", fmt.Errorf("list the pods of pvc-autoresizer: %w", err)
	}
	if len(pods.Items) == 0 {
		return "", nil
	}
	return pods.Items[0].Namespace + "/" + pods.Items[0].Name, nil
}

// AutoresizersOf returns the name pvc-autoresizer for a pod that runs it: by the label of its
// chart, or by its image.
func AutoresizersOf(object client.Object) []string {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return nil
	}
	isProgram := p.Labels[labelName] == autoresizer
	for i := range p.Spec.Containers {
		image, _, _ := strings.Cut(path.Base(p.Spec.Containers[i].Image), "@")
		image, _, _ = strings.Cut(image, ":")
		isProgram = isProgram || image == autoresizer
	}
	if isProgram {
		return []string{autoresizer}
	}
	return nil
}

// PodsOf returns the pods in the cache that can write to the claim.
func PodsOf(ctx context.Context, cached client.Reader, c *corev1.PersistentVolumeClaim) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := cached.List(ctx, &pods, client.InNamespace(c.Namespace), client.MatchingFields{IndexClaims: c.Name})
	if err != nil {
		return nil, fmt.Errorf("list the pods of claim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return pods.Items, nil
}

// ClaimsOf returns the names of the claims whose volumes a container of the pod can write to.
// kubelet does not grow a volume for a pod that uses it read-only, or in no container.
func ClaimsOf(object client.Object) []string {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return nil
	}
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

// reduce removes from a pod what the tasks do not read.
func reduce(object any) any {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return object
	}
	small := &corev1.Pod{TypeMeta: p.TypeMeta}
	small.Namespace, small.Name, small.UID, small.ResourceVersion = p.Namespace, p.Name, p.UID, p.ResourceVersion
	if AutoresizersOf(p) != nil {
		small.Labels = map[string]string{labelName: autoresizer}
	}
	small.DeletionTimestamp = p.DeletionTimestamp
	small.Annotations = map[string]string{}
	for key, value := range p.Annotations {
		if key == AnnotationMirror || strings.HasPrefix(key, annotationPrefix) {
			small.Annotations[key] = value
		}
	}
	small.Spec.NodeName, small.Status.Phase = p.Spec.NodeName, p.Status.Phase
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		reduced := corev1.Volume{Name: v.Name}
		switch {
		case v.PersistentVolumeClaim != nil:
			reduced.PersistentVolumeClaim = v.PersistentVolumeClaim
		case v.Ephemeral != nil:
			reduced.Ephemeral = &corev1.EphemeralVolumeSource{}
		default:
			continue
		}
		small.Spec.Volumes = append(small.Spec.Volumes, reduced)
	}
	if small.Spec.Volumes != nil {
		small.Spec.InitContainers = reduceContainers(p.Spec.InitContainers)
		small.Spec.Containers = reduceContainers(p.Spec.Containers)
	}
	return small
}

func reduceContainers(containers []corev1.Container) []corev1.Container {
	var reduced []corev1.Container
	for i := range containers {
		c := &containers[i]
		reduced = append(reduced, corev1.Container{VolumeMounts: c.VolumeMounts, VolumeDevices: c.VolumeDevices})
	}
	return reduced
}

package kubeletwake

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const (
	// IndexClaims is the index of pods by the names of the claims that they can write to.
	IndexClaims = "growvol.io/claims"
	// conflictPause lets the cache receive a pod that has changed.
	conflictPause = 50 * time.Millisecond
	// workers is the number of claims that are treated at once.
	workers = 8
)

// PodCache returns how the manager's cache keeps pods: those that run, without the parts that the
// rules do not read, since a cluster may have many.
func PodCache() cache.ByObject {
	return cache.ByObject{
		Field:     fields.OneTermEqualSelector("status.phase", string(corev1.PodRunning)),
		Transform: func(object any) (any, error) { return reduce(object), nil },
	}
}

// reduce removes from a pod what the rules do not read.
func reduce(object any) any {
	p, ok := object.(*corev1.Pod)
	if !ok {
		return object
	}
	small := &corev1.Pod{TypeMeta: p.TypeMeta}
	small.Namespace, small.Name, small.UID, small.ResourceVersion = p.Namespace, p.Name, p.UID, p.ResourceVersion
	small.DeletionTimestamp = p.DeletionTimestamp
	for _, key := range []string{AnnotationWoken, AnnotationEnabled, annotationMirror} {
		if value, found := p.Annotations[key]; found {
			if small.Annotations == nil {
				small.Annotations = map[string]string{}
			}
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

// indexClaims returns the values of IndexClaims.
func indexClaims(object client.Object) []string {
	if p, ok := object.(*corev1.Pod); ok {
		return claimsOf(p)
	}
	return nil
}

// SetUp adds the reconciler to the manager. It runs for a claim that changes, and for the claims of
// a pod that begins to run.
func (r *Reconciler) SetUp(ctx context.Context, m manager.Manager) error {
	if err := m.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, IndexClaims, indexClaims); err != nil {
		return fmt.Errorf("index the pods by claim: %w", err)
	}
	err := builder.ControllerManagedBy(m).Named("kubeletwake").
		For(&corev1.PersistentVolumeClaim{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(requestsOf), builder.WithPredicates(becomesWakeable())).
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("set up the controller: %w", err)
	}
	return nil
}

// becomesWakeable selects the pods that can be woken now and could not be before.
func becomesWakeable() predicate.Predicate {
	can := func(object client.Object) bool {
		p, ok := object.(*corev1.Pod)
		return ok && canWake(p)
	}
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return can(e.Object) },
		UpdateFunc:  func(e event.UpdateEvent) bool { return can(e.ObjectNew) && !can(e.ObjectOld) },
		DeleteFunc:  func(event.DeleteEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
	}
}

// requestsOf returns the claims of the pod.
func requestsOf(_ context.Context, object client.Object) []reconcile.Request {
	var requests []reconcile.Request
	for _, name := range indexClaims(object) {
		requests = append(requests, reconcile.Request{
			NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name},
		})
	}
	return requests
}

package kubeletwake

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/growvol/growvol/pkg/claimcache"
)

const (
	// conflictPause lets the cache receive a pod that has changed.
	conflictPause = 50 * time.Millisecond
	// workers is the number of claims that are treated at once.
	workers = 8
)

// SetUp adds the reconciler to the manager. It runs for a claim that changes, and for the claims of
// a pod that begins to run. The manager has the cache and the index of package claimcache.
func (r *Reconciler) SetUp(m manager.Manager) error {
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
	for _, name := range claimcache.ClaimsOf(object) {
		requests = append(requests, reconcile.Request{
			NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name},
		})
	}
	return requests
}

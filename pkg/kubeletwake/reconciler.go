package kubeletwake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claimcache"
	"github.com/growvol/growvol/pkg/volume"
)

// Options are what a Reconciler works with.
type Options struct {
	// Drivers are the CSI drivers whose volumes are watched. Other volumes are left alone.
	Drivers []string
	Client  client.Client // reads from a cache, which has the index of package claimcache
	Live    client.Reader // reads from the API server
	Events  events.EventRecorder
	Metrics *Metrics
	Log     *slog.Logger
}

// Reconciler wakes kubelet for claims whose filesystem waits for a node.
type Reconciler struct{ Options }

// NewReconciler returns a reconciler with the options, all of which are required.
func NewReconciler(o Options) *Reconciler { return &Reconciler{Options: o} }

// Reconcile wakes kubelet once for the size of the claim and for each pod that runs with it. The
// error of the API server is returned, except that of a pod that is gone.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var c corev1.PersistentVolumeClaim
	if err := r.Client.Get(ctx, request.NamespacedName, &c); err != nil {
		if apierrors.IsNotFound(err) {
			r.Metrics.forget(request.NamespacedName)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("read claim %s: %w", request.NamespacedName, err)
	}
	r.Metrics.observeCapacity(request.NamespacedName, claim.Capacity(&c))
	if !waitsForKubelet(&c) {
		return reconcile.Result{}, nil
	}
	pv, err := claimcache.VolumeOf(ctx, r.Live, &c, r.Drivers)
	if err != nil || pv == nil {
		return reconcile.Result{}, err
	}
	size := volume.Size(pv.Spec.Capacity.Storage().Value()) // with which kubelet compares
	if size <= claim.Capacity(&c) {
		return reconcile.Result{}, nil
	}
	pods, err := claimcache.PodsOf(ctx, r.Client, &c)
	if err != nil {
		return reconcile.Result{}, err
	}
	var failed []error
	for i := range pods {
		if p := &pods[i]; canWake(p) && wokenFor(p)[c.Name] < size {
			if err := r.wake(ctx, &c, p, size); err != nil {
				failed = append(failed, err)
			}
		}
	}
	return resultOf(failed)
}

// resultOf repeats soon after conflicts only: the cache receives the changed pod meanwhile. The
// queue repeats after other errors, with a pause that doubles.
func resultOf(failed []error) (reconcile.Result, error) {
	if others := slices.DeleteFunc(slices.Clone(failed), apierrors.IsConflict); len(others) > 0 {
		return reconcile.Result{}, errors.Join(others...)
	}
	if len(failed) > 0 {
		return reconcile.Result{RequeueAfter: conflictPause}, nil
	}
	return reconcile.Result{}, nil
}

// wake changes the annotation of the pod.
func (r *Reconciler) wake(
	ctx context.Context, c *corev1.PersistentVolumeClaim, p *corev1.Pod, size volume.Size,
) error {
	patch, err := newWakePatch(p, c.Name, size)
	if err != nil {
		return err
	}
	err = r.Client.Patch(ctx, p, client.RawPatch(types.MergePatchType, patch))
	switch {
	case apierrors.IsNotFound(err): // kubelet grows the volume when it mounts it for the next pod
		return nil
	case apierrors.IsConflict(err):
		return err
	case err != nil:
		r.Metrics.failures.Inc()
		return fmt.Errorf("change the annotation %s of pod %s/%s, so that kubelet grows the filesystem of claim %s: %w",
			AnnotationWoken, p.Namespace, p.Name, c.Name, err)
	}
	r.Metrics.countWake(client.ObjectKeyFromObject(c), size)
	r.Log.InfoContext(ctx, "kubelet is woken to grow a filesystem", "namespace", c.Namespace, "claim", c.Name,
		"pod", p.Name, "node", p.Spec.NodeName, "size", size)
	r.Events.Eventf(c, p, corev1.EventTypeNormal, "KubeletWoken", "Wake",
		"the volume has %s: pod %s was annotated, so that kubelet on node %s grows the filesystem",
		size, p.Name, p.Spec.NodeName)
	return nil
}

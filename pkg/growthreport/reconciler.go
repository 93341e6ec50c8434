package growthreport

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claimcache"
)

// Options are what a Reconciler works with. All are required.
type Options struct {
	Drivers []string      // CSI drivers whose claims are reported
	Client  client.Client // reads from a cache, which has the index of package claimcache
	Live    client.Reader // reads from the API server
	Events  events.EventRecorder
	Metrics prometheus.Registerer
	Log     *slog.Logger
	Now     func() time.Time
}

// Reconciler reports growths that do not proceed.
type Reconciler struct {
	Options
	growths *growths
}

// NewReconciler returns a reconciler with the options.
func NewReconciler(o Options) *Reconciler {
	r := &Reconciler{Options: o, growths: newGrowths()}
	o.Metrics.MustRegister(r.growths)
	return r
}

// SetUp adds the reconciler to the manager. It runs for a claim that changes.
func (r *Reconciler) SetUp(m manager.Manager) error {
	err := builder.ControllerManagedBy(m).Named("growthreport").For(&corev1.PersistentVolumeClaim{}).Complete(r)
	if err != nil {
		return fmt.Errorf("set up the controller: %w", err)
	}
	return nil
}

// Reconcile writes an event on the claim if its growth does not proceed. The same text is written
// once, and once more after a restart.
func (r *Reconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var c corev1.PersistentVolumeClaim
	err := r.Client.Get(ctx, request.NamespacedName, &c)
	switch {
	case apierrors.IsNotFound(err):
		r.growths.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("read claim %s: %w", request.NamespacedName, err)
	case !isGrowing(&c):
		r.growths.forget(request.NamespacedName)
		return reconcile.Result{}, nil
	}
	d, err := r.diagnose(ctx, &c)
	if err != nil || d == nil {
		return reconcile.Result{}, err
	}
	note := noteOf(*d)
	current, next, isNew := r.growths.update(request.NamespacedName, c.UID, *d, note, r.Now())
	if isNew {
		reason := "GrowthStuck"
		if current == stateDelayed {
			reason = "GrowthDelayed"
		}
		r.Log.WarnContext(ctx, "a growth does not proceed", "namespace", c.Namespace, "claim", c.Name,
			"state", string(current), "cause", note)
		r.Events.Eventf(&c, nil, corev1.EventTypeWarning, reason, "Grow", "%s", note)
	}
	return reconcile.Result{RequeueAfter: next}, nil
}

// diagnose returns what package claim says of the claim. It returns nil without an error if the
// volume is not of one of the drivers.
func (r *Reconciler) diagnose(ctx context.Context, c *corev1.PersistentVolumeClaim) (*claim.Diagnosis, error) {
	pv, err := claimcache.VolumeOf(ctx, r.Live, c, r.Drivers)
	if err != nil || pv == nil {
		return nil, err
	}
	pods, err := claimcache.PodsOf(ctx, r.Client, c)
	if err != nil {
		return nil, err
	}
	o := claim.Objects{Claim: c, ReadAt: r.Now()}
	o.Volume.Value, o.Pods.Value = pv, pods
	if len(pods) > 0 && strings.HasPrefix(claim.StepOf(c), "NodeResize") {
		var node storagev1.CSINode
		o.Node.Value = &node
		err := r.Live.Get(ctx, types.NamespacedName{Name: pods[0].Spec.NodeName}, &node)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("read CSINode %s: %w", pods[0].Spec.NodeName, err)
		}
	}
	d := claim.NewStatus(o).Diagnosis
	return &d, nil
}

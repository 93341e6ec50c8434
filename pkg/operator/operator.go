// Package operator runs growvol-operator: one connection to the API server, the caches, leader
// election, probes and metrics. The packages of the single tasks decide what happens.
package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/growvol/growvol/pkg/claimcache"
	"github.com/growvol/growvol/pkg/growthreport"
	"github.com/growvol/growvol/pkg/kubeletwake"
)

const (
	// A replica that was killed is replaced after leaseDuration at the latest. One that cannot renew
	// its lease in renewDeadline ends.
	leaseDuration = 10 * time.Second
	renewDeadline = 7 * time.Second
	retryPeriod   = 2 * time.Second
	// stopTimeout bounds the end of what runs.
	stopTimeout = 10 * time.Second
	// requestsPerSecond and requestBurst limit the requests to the API server: a wake is two.
	requestsPerSecond = 50
	requestBurst      = 100
)

// Options are the settings of the operator.
type Options struct {
	Drivers        []string // CSI drivers whose claims are treated
	WakeKubelet    bool     // see package kubeletwake
	Readings       Readings
	Grow           Grow
	LeaderElection bool
	LeaseName      string // of the Lease
	LeaseNamespace string // empty: the namespace of the pod
	MetricsAddress string // host:port of /metrics; empty: off
	HealthAddress  string // host:port of /healthz and /readyz; empty: off
	Log            *slog.Logger
}

// Run runs the operator until ctx ends. It returns an error if the operator cannot start, loses its
// lease, or does not end in time.
func Run(ctx context.Context, config *rest.Config, o Options) error {
	if len(o.Drivers) == 0 {
		return errors.New("no CSI driver is named (next step: set --drivers)")
	}
	if err := o.checkReadings(); err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = requestsPerSecond, requestBurst
	m, err := manager.New(config, o.managerOptions())
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	if err := errors.Join(addChecks(m), claimcache.AddIndex(ctx, m.GetFieldIndexer())); err != nil {
		return err
	}
	if err := o.addControllers(m, metrics.Registry); err != nil {
		return err
	}
	if err := o.addReadings(m, config); err != nil {
		return err
	}
	return m.Start(ctx)
}

// addControllers adds the reports of growths and, unless it is turned off, the waking of kubelet.
func (o Options) addControllers(m manager.Manager, registry prometheus.Registerer) error {
	report := growthreport.NewReconciler(growthreport.Options{
		Drivers: o.Drivers, Client: m.GetClient(), Live: m.GetAPIReader(), Log: o.Log, Now: time.Now,
		Events: m.GetEventRecorder("growvol-operator"), Metrics: registry,
	})
	if err := report.SetUp(m); err != nil {
		return fmt.Errorf("report growths: %w", err)
	}
	if o.WakeKubelet {
		wake := kubeletwake.NewReconciler(kubeletwake.Options{
			Drivers: o.Drivers, Client: m.GetClient(), Live: m.GetAPIReader(), Log: o.Log,
			Events: m.GetEventRecorder("growvol-operator"), Metrics: kubeletwake.NewMetrics(registry),
		})
		if err := wake.SetUp(m); err != nil {
			return fmt.Errorf("wake kubelet: %w", err)
		}
	}
	return nil
}

func (o Options) managerOptions() manager.Options {
	address := func(a string) string {
		if a == "" {
			return "0" // off, see controller-runtime
		}
		return a
	}
	lease, renew, retry, stop := leaseDuration, renewDeadline, retryPeriod, stopTimeout
	return manager.Options{
		Scheme: clientgoscheme.Scheme,
		Logger: logr.FromSlogHandler(o.Log.Handler()),
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}: claimcache.Pods(), &corev1.PersistentVolume{}: claimcache.Volumes(),
			},
		},
		LeaderElection: o.LeaderElection, LeaderElectionID: o.LeaseName, LeaderElectionNamespace: o.LeaseNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &lease, RenewDeadline: &renew, RetryPeriod: &retry,
		GracefulShutdownTimeout: &stop,
		Metrics:                 metricsserver.Options{BindAddress: address(o.MetricsAddress)},
		HealthProbeBindAddress:  address(o.HealthAddress),
	}
}

// addChecks adds /healthz, which says that the process answers, and /readyz, which says that the
// caches have the state of the cluster. A replica that is not the leader is ready too.
func addChecks(m manager.Manager) error {
	isSynced := func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if !m.GetCache().WaitForCacheSync(ctx) {
			return errors.New("the API server has not sent all objects yet")
		}
		return nil
	}
	return errors.Join(m.AddHealthzCheck("ping", healthz.Ping), m.AddReadyzCheck("caches", isSynced))
}

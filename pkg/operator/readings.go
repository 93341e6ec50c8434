package operator

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/growvol/growvol/pkg/autogrow"
	"github.com/growvol/growvol/pkg/claimreadings"
	"github.com/growvol/growvol/pkg/growthreport"
	"github.com/growvol/growvol/pkg/readings/client"
	"github.com/growvol/growvol/pkg/volume"
)

// readingsPerSecond limits the requests for readings: a reading of a node is two.
const readingsPerSecond = 200

// Readings say where the nodes' readings are read. This file sets up what uses them.
type Readings struct {
	Driver    string // whose node plugins give readings; empty: none are read
	Namespace string // of the plugins' pods
	Account   string // ServiceAccount in that namespace, with whose tokens the plugins answer
}

// Grow are the settings of claims that grow by themselves, see package autogrow.
type Grow struct {
	IsEnabled  bool
	IsDryRun   bool
	Interval   time.Duration // between two readings of a claim that has opted in
	Cooldown   time.Duration // of claims that name none
	MaxPerHour volume.Size   // bytes, of all claims together; 0: no limit
	MaxAtOnce  int           // growths under way; 0: no limit
}

// checkReadings returns an error for settings that do not fit together.
func (o Options) checkReadings() error {
	switch g := o.Grow; {
	case g.IsEnabled && o.Readings.Driver == "":
		return errors.New("claims cannot grow without readings (next step: set --readings-driver)")
	case g.IsEnabled && (g.Interval < claimreadings.MinInterval || g.Cooldown < 0 || g.MaxPerHour < 0 || g.MaxAtOnce < 0):
		return fmt.Errorf("--grow-interval is %s, and must be at least %s; the other limits must not be negative",
			g.Interval, claimreadings.MinInterval)
	case o.Readings.Driver != "" && o.Readings.Namespace == "":
		return errors.New("the plugins' pods are not known (next step: set --readings-namespace)")
	}
	return nil
}

// addReadings adds what reads the nodes, and the tasks that use the readings.
func (o Options) addReadings(m manager.Manager, config *rest.Config) error {
	if o.Readings.Driver == "" {
		return nil
	}
	config = rest.CopyConfig(config) // with a limit of its own: readings must not delay a wake
	config.QPS, config.Burst = readingsPerSecond, 2*readingsPerSecond
	kubernetesClient, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	events := m.GetEventRecorder("growvol-operator")
	observers := []claimreadings.Observer{growthreport.NewShortages(growthreport.Options{
		Drivers: o.Drivers, Client: m.GetClient(), Live: m.GetAPIReader(), Log: o.Log, Now: time.Now,
		Events: events, Metrics: metrics.Registry,
	})}
	if o.Grow.IsEnabled {
		observers = append(observers, autogrow.New(autogrow.Options{
			Client: m.GetClient(), Live: m.GetAPIReader(), Events: events, Metrics: metrics.Registry, Log: o.Log,
			Now: time.Now, Pause: o.Grow.Interval, Cooldown: o.Grow.Cooldown, IsDryRun: o.Grow.IsDryRun,
			Fleet: autogrow.Fleet{MaxBytes: o.Grow.MaxPerHour, MaxAtOnce: o.Grow.MaxAtOnce},
		}))
	}
	poller := claimreadings.New(claimreadings.Options{
		Driver: o.Readings.Driver, Client: m.GetClient(), Observers: observers, Metrics: metrics.Registry, Log: o.Log,
		Reader: client.New(client.Options{
			Kubernetes: kubernetesClient, Driver: o.Readings.Driver, Namespace: o.Readings.Namespace,
			Account: o.Readings.Account,
		}),
	})
	if err := m.Add(poller); err != nil {
		return fmt.Errorf("read the nodes: %w", err)
	}
	return nil
}

package kubeletwake

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/growvol/growvol/pkg/volume"
)

// Metrics count the wakes, and measure the time until the claim has the size.
type Metrics struct {
	wakes    prometheus.Counter
	failures prometheus.Counter
	growth   prometheus.Histogram

	mu    sync.Mutex
	woken map[types.NamespacedName]wake // the claims that have not grown yet
}

// wake is the last wake for a claim.
type wake struct {
	size volume.Size
	at   time.Time
}

// NewMetrics returns metrics that are registered with the registry.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		wakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "growvol_operator_kubelet_wakes_total",
			Help: "Pods whose annotation was changed, so that kubelet grows a filesystem.",
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "growvol_operator_kubelet_wake_failures_total",
			Help: "Changes of a pod's annotation that the API server refused. They are repeated.",
		}),
		growth: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "growvol_operator_growth_after_wake_seconds",
			Help:    "Time from the wake until the claim has the size, for which the filesystem was read back.",
			Buckets: []float64{0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128},
		}),
		woken: map[types.NamespacedName]wake{},
	}
	registry.MustRegister(m.wakes, m.failures, m.growth)
	return m
}

func (m *Metrics) countWake(name types.NamespacedName, size volume.Size) {
	m.wakes.Inc()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.woken[name].size < size {
		m.woken[name] = wake{size: size, at: time.Now()}
	}
}

// observeCapacity ends the measurement of the claim if it has the size.
func (m *Metrics) observeCapacity(name types.NamespacedName, capacity volume.Size) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w, found := m.woken[name]; found && capacity >= w.size {
		m.growth.Observe(time.Since(w.at).Seconds())
		delete(m.woken, name)
	}
}

// forget drops the measurement of a claim that is gone.
func (m *Metrics) forget(name types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.woken, name)
}

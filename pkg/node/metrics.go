package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/volume"
)

// Phase is a part of an expansion on the node that takes its own time.
type Phase string

// The phases of NodeExpandVolume, in order.
const (
	PhaseLock       Phase = "lock"       // waiting for other work on the volume
	PhaseDevice     Phase = "device"     // until the device has the new size
	PhaseMapper     Phase = "mapper"     // dm-crypt
	PhaseFilesystem Phase = "filesystem" // until the filesystem was read back
)

// Observer learns how expansions go.
type Observer interface {
	// PhaseDone tells how long a phase took and how it ended (nil: well).
	PhaseDone(p Phase, took time.Duration, err error)
	// Grown tells by how many bytes a filesystem grew, and by which way.
	Grown(by volume.Size, method string)
}

type unobserved struct{}

func (unobserved) PhaseDone(Phase, time.Duration, error) {}
func (unobserved) Grown(volume.Size, string)             {}

// Metrics is an Observer that keeps Prometheus series.
type Metrics struct {
	phases *prometheus.HistogramVec
	bytes  *prometheus.CounterVec
}

// NewMetrics registers growvol_node_expand_phase_seconds{phase,result} and
// growvol_node_grown_bytes_total{method}. The result of a phase that failed is
// the kind of its error, so "device/deadline" counts the expansions whose
// device did not grow in time.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "growvol_node_expand_phase_seconds",
			Help:    "Time of each phase of NodeExpandVolume by its result (ok, or the kind of error).",
			Buckets: []float64{.001, .005, .02, .1, .5, 1, 2, 5, 10, 30, 60, 120},
		}, []string{"phase", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_node_grown_bytes_total",
			Help: "Bytes by which filesystems grew, as read back, by method.",
		}, []string{"method"}),
	}
	for _, c := range []prometheus.Collector{m.phases, m.bytes} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// PhaseDone implements Observer.
func (m *Metrics) PhaseDone(p Phase, took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = volume.KindOf(err).String()
	}
	m.phases.WithLabelValues(string(p), result).Observe(took.Seconds())
}

// Grown implements Observer.
func (m *Metrics) Grown(by volume.Size, method string) {
	m.bytes.WithLabelValues(method).Add(float64(by))
}

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

// Occasion is why a filesystem is grown.
type Occasion string

// The occasions.
const (
	OccasionStage  Occasion = "stage"  // NodeStageVolume found it smaller than its device
	OccasionExpand Occasion = "expand" // NodeExpandVolume
	OccasionDevice Occasion = "device" // the device has become larger
)

// Observer learns how expansions go.
type Observer interface {
	// PhaseDone reports how long a phase of NodeExpandVolume took and how it
	// ended (nil: well).
	PhaseDone(p Phase, took time.Duration, err error)
	// Grown reports by how many bytes a filesystem grew, and by which way.
	Grown(o Occasion, by volume.Size, method string)
	// GrowthFailed reports a filesystem that could not be grown.
	GrowthFailed(o Occasion, err error)
}

type unobserved struct{}

func (unobserved) PhaseDone(Phase, time.Duration, error) {}
func (unobserved) Grown(Occasion, volume.Size, string)   {}
func (unobserved) GrowthFailed(Occasion, error)          {}

// Metrics is an Observer that keeps Prometheus series.
type Metrics struct {
	phases  *prometheus.HistogramVec
	bytes   *prometheus.CounterVec
	growths *prometheus.CounterVec
}

// NewMetrics registers growvol_node_expand_phase_seconds{phase,result},
// growvol_node_grown_bytes_total{method} and
// growvol_node_growths_total{occasion,result}. The result of what failed is
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
		growths: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_node_growths_total",
			Help: "Filesystems that grew or failed to, by occasion (stage, expand, device) and result (grown, or the kind of error).",
		}, []string{"occasion", "result"}),
	}
	for _, c := range []prometheus.Collector{m.phases, m.bytes, m.growths} {
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
func (m *Metrics) Grown(o Occasion, by volume.Size, method string) {
	m.bytes.WithLabelValues(method).Add(float64(by))
	m.growths.WithLabelValues(string(o), "grown").Inc()
}

// GrowthFailed implements Observer.
func (m *Metrics) GrowthFailed(o Occasion, err error) {
	m.growths.WithLabelValues(string(o), volume.KindOf(err).String()).Inc()
}

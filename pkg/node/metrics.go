package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/volume"
)

// Metrics are the Prometheus series of expansions and growths.
type Metrics struct {
	phases  *prometheus.HistogramVec
	bytes   *prometheus.CounterVec
	growths *prometheus.CounterVec
}

// Phase is a part of an expansion on the node that is measured on its own: a value of the label
// "phase".
type Phase string

// The phases of NodeExpandVolume, in order.
const (
	PhaseLock       Phase = "lock"       // waits for other work on the volume
	PhaseDevice     Phase = "device"     // until the device has the new size
	PhaseMapper     Phase = "mapper"     // resizes the dm-crypt mapping
	PhaseFilesystem Phase = "filesystem" // grows the filesystem and reads its size back
)

// occasion is why a filesystem is grown: a value of the label "occasion".
type occasion string

const (
	occasionStage  occasion = "stage"  // NodeStageVolume found it smaller than its device
	occasionExpand occasion = "expand" // NodeExpandVolume
	occasionDevice occasion = "device" // the device has become larger
)

// NewMetrics registers growvol_node_expand_phase_seconds{phase,result},
// growvol_node_grown_bytes_total{method} and growvol_node_growths_total{occasion,result}. The
// result of a failure is the kind of its error, so "device/deadline" counts the expansions whose
// device did not grow in time.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := newMetrics()
	for _, c := range []prometheus.Collector{m.phases, m.bytes, m.growths} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func newMetrics() *Metrics {
	return &Metrics{
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
			Help: "Filesystems that grew or failed to, by occasion (stage, expand, device) and " +
				"result (grown, or the kind of error).",
		}, []string{"occasion", "result"}),
	}
}

// phaseDone counts a phase that began at start and ended with err.
func (m *Metrics) phaseDone(p Phase, start time.Time, err error) {
	result := "ok"
	if err != nil {
		result = volume.KindOf(err).String()
	}
	m.phases.WithLabelValues(string(p), result).Observe(time.Since(start).Seconds())
}

// grown counts a filesystem that grew by so many bytes.
func (m *Metrics) grown(o occasion, by volume.Size, method string) {
	m.bytes.WithLabelValues(method).Add(float64(by))
	m.growths.WithLabelValues(string(o), "grown").Inc()
}

// growthFailed counts a filesystem that could not be grown.
func (m *Metrics) growthFailed(o occasion, err error) {
	m.growths.WithLabelValues(string(o), volume.KindOf(err).String()).Inc()
}

package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/growvol/growvol/pkg/volume"
)

// Metrics are the Prometheus series of expansions, growths and trims.
type Metrics struct {
	phases  *prometheus.HistogramVec
	bytes   *prometheus.CounterVec
	growths *prometheus.CounterVec
	trims   *prometheus.CounterVec
	freed   *prometheus.CounterVec
}

// The phases of NodeExpandVolume, in order: values of the label "phase".
const (
	PhaseLock       = "lock"       // waits for other work on the volume
	PhaseDevice     = "device"     // until the device has the new size
	PhaseMapper     = "mapper"     // resizes the dm-crypt mapping
	PhaseFilesystem = "filesystem" // grows the filesystem and reads its size back
)

// Why a filesystem is grown: values of the label "occasion".
const (
	occasionStage  = "stage"  // NodeStageVolume found it smaller than its device
	occasionExpand = "expand" // NodeExpandVolume
	occasionDevice = "device" // the device has become larger
)

// NewMetrics registers growvol_node_expand_phase_seconds{phase,result},
// growvol_node_grown_bytes_total{method}, growvol_node_growths_total{occasion,result},
// growvol_node_trims_total{result} and growvol_node_trimmed_bytes_total{result}. The result of a
// failure is the kind of its error, so "device/deadline" counts the expansions whose device did not
// grow in time.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	return &Metrics{
		phases: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "growvol_node_expand_phase_seconds",
			Help:    "Time of each phase of NodeExpandVolume by its result (ok, or the kind of error).",
			Buckets: []float64{.001, .005, .02, .1, .5, 1, 2, 5, 10, 30, 60, 120},
		}, []string{"phase", "result"}),
		bytes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_node_grown_bytes_total",
			Help: "Bytes by which filesystems grew, as read back, by method.",
		}, []string{"method"}),
		growths: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_node_growths_total",
			Help: "Filesystems that grew or failed to, by occasion (stage, expand, device) and " +
				"result (grown, or the kind of error).",
		}, []string{"occasion", "result"}),
		trims: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_node_trims_total",
			Help: "Calls of NodeReclaimSpace by result (ok, or the kind of error).",
		}, []string{"result"}),
		freed: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_node_trimmed_bytes_total",
			Help: "Free bytes that filesystems discarded for NodeReclaimSpace, by its result; " +
				"the storage system may have gained less.",
		}, []string{"result"}),
	}
}

// trimmed counts a call of NodeReclaimSpace, and what was discarded before its error, if any.
func (m *Metrics) trimmed(size volume.Size, err error) {
	result := "ok"
	if err != nil {
		result = volume.KindOf(err).String()
	}
	m.trims.WithLabelValues(result).Inc()
	m.freed.WithLabelValues(result).Add(float64(size))
}

// phaseDone records the duration of a phase that began at start and ended with err.
func (m *Metrics) phaseDone(phase string, start time.Time, err error) {
	result := "ok"
	if err != nil {
		result = volume.KindOf(err).String()
	}
	m.phases.WithLabelValues(phase, result).Observe(time.Since(start).Seconds())
}

// grown counts a filesystem that grew by this size.
func (m *Metrics) grown(occasion string, by volume.Size, method string) {
	m.bytes.WithLabelValues(method).Add(float64(by))
	m.growths.WithLabelValues(occasion, "grown").Inc()
}

// growthFailed counts a filesystem that could not be grown.
func (m *Metrics) growthFailed(occasion string, err error) {
	m.growths.WithLabelValues(occasion, volume.KindOf(err).String()).Inc()
}

package claimreadings

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count the readings.
type metrics struct {
	duration *prometheus.HistogramVec
	unread   prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "growvol_operator_node_read_seconds",
			Help:    "Time to read how full the volumes of a node are, through the API server.",
			Buckets: []float64{0.01, 0.03, 0.1, 0.3, 1, 3},
		}, []string{"result"}),
		unread: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "growvol_operator_nodes_unread",
			Help: "Nodes with claims to be read that have not answered for 2 minutes.",
		}),
	}
	registry.MustRegister(m.duration, m.unread)
	return m
}

// observe counts one reading of a node.
func (m *metrics) observe(d time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.duration.WithLabelValues(result).Observe(d.Seconds())
}

func (m *metrics) setUnread(nodes int) { m.unread.Set(float64(nodes)) }

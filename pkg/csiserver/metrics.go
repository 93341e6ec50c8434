package csiserver

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// Metrics counts and times the calls of a server. It has its own registry and does not use
// the global one of the client library.
type Metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
}

// NewMetrics returns a registry with these series and those of the Go runtime and the
// process:
//
//	growvol_csi_calls_total{method,code}            finished calls
//	growvol_csi_call_duration_seconds{method}       their duration
//	growvol_csi_calls_in_flight{method}             running calls
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_csi_calls_total", Help: "Finished CSI calls by method and gRPC code.",
		}, []string{"method", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "growvol_csi_call_duration_seconds", Help: "Duration of CSI calls.",
			// From a cached answer to more than the two minutes that kubelet waits.
			Buckets: []float64{.001, .005, .02, .1, .5, 1, 2, 5, 10, 30, 60, 120, 300},
		}, []string{"method"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "growvol_csi_calls_in_flight", Help: "CSI calls that are running.",
		}, []string{"method"}),
	}
	m.registry.MustRegister(
		m.calls, m.duration, m.inFlight,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Registerer returns the registry of the metrics, for further metrics of the plugin.
func (m *Metrics) Registerer() prometheus.Registerer { return m.registry }

// handler serves the metrics in the Prometheus formats.
func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// measure counts and times a call. The label is the method's short name. gRPC calls no
// interceptor for an unknown method, so the label has no more values than CSI has methods.
func (m *Metrics) measure(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
) (any, error) {
	name := method(info)
	running := m.inFlight.WithLabelValues(name)
	running.Inc()
	defer running.Dec()
	start := time.Now()
	resp, err := next(ctx, req)
	m.duration.WithLabelValues(name).Observe(time.Since(start).Seconds())
	m.calls.WithLabelValues(name, status.Code(err).String()).Inc()
	return resp, err
}

package transport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count and time the attempts of requests to OpenStack. A nil *Metrics does nothing.
type Metrics struct {
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	inFlight *prometheus.GaugeVec
}

// NewMetrics registers
//
//	growvol_openstack_request_duration_seconds{service,call,code}   each attempt
//	growvol_openstack_request_retries_total{service,call}           attempts after the first
//	growvol_openstack_requests_in_flight{service}                   attempts that are running
//
// The code is a class (2xx, 4xx, …), or lost, timeout or canceled for attempts without an answer.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "growvol_openstack_request_duration_seconds",
			Help:    "Duration of requests to OpenStack by service, call and class of the answer.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
		}, []string{"service", "call", "code"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_openstack_request_retries_total", Help: "Requests to OpenStack that were sent again.",
		}, []string{"service", "call"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "growvol_openstack_requests_in_flight", Help: "Requests to OpenStack that wait for an answer.",
		}, []string{"service"}),
	}
	for _, c := range []prometheus.Collector{m.duration, m.retries, m.inFlight} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// startAttempt counts an attempt as in flight until done is called, which records its duration.
func (m *Metrics) startAttempt(c *Call) (done func(code string, took time.Duration)) {
	if m == nil {
		return func(string, time.Duration) {}
	}
	running := m.inFlight.WithLabelValues(c.Service)
	running.Inc()
	return func(code string, took time.Duration) {
		running.Dec()
		m.duration.WithLabelValues(c.Service, c.Name, code).Observe(took.Seconds())
	}
}

func (m *Metrics) countRetry(c *Call) {
	if m != nil {
		m.retries.WithLabelValues(c.Service, c.Name).Inc()
	}
}

// resultClass returns the value of the label code for an attempt. ctx is the caller's context.
func resultClass(ctx context.Context, resp *http.Response, err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return strconv.Itoa(resp.StatusCode/100) + "xx"
	case ctx.Err() != nil:
		return "canceled"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "lost"
}

package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestLogAndMetrics(t *testing.T) {
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	must(t, err)
	s := newScriptedServer(t, breakConnection(false), answerWith(503, "X-Openstack-Request-Id", "req-1"),
		answerWith(200, "X-Compute-Request-Id", "req-2"))
	tr := newTransport(t, Options{Metrics: m, Log: slog.New(slog.NewTextHandler(&log,
		&slog.HandlerOptions{Level: slog.LevelDebug}))})
	req, err := http.NewRequestWithContext(WithCall(t.Context(), &Call{Service: "nova", Name: "server_get"}),
		http.MethodGet, s.URL+"/v2.1/servers/x?all=1", nil)
	must(t, err)
	req.Header.Set("X-Auth-Token", "gAAAAsecret")
	resp, err := tr.RoundTrip(req)
	must(t, err)
	must(t, resp.Body.Close())
	text := log.String()
	for _, want := range []string{
		`service=nova call=server_get method=GET path=/v2.1/servers/x attempt=1`, "error=EOF", "attempt=2",
		"status=503 openstack_request_id=req-1", "attempt=3", "status=200 openstack_request_id=req-2", "took=",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "gAAAA") {
		t.Errorf("the log holds a token:\n%s", text)
	}
	const duration = "growvol_openstack_request_duration_seconds server_get"
	want := map[string]float64{
		duration + " 2xx nova": 1, duration + " 5xx nova": 1, duration + " lost nova": 1,
		"growvol_openstack_requests_in_flight nova":               0,
		"growvol_openstack_request_retries_total server_get nova": 2,
	}
	if got := series(t, reg); !maps.Equal(got, want) {
		t.Errorf("the metrics read %v, want %v", got, want)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("the metrics are registered twice")
	}
}

// series reads the metrics: name and label values (in the order of the labels' names), and the
// value or the number of observations.
func series(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestResultClasses(t *testing.T) {
	gone, leave := context.WithCancel(t.Context())
	leave()
	timeout := fmt.Errorf("outer: %w", &net.OpError{Op: "read", Err: context.DeadlineExceeded})
	for want, got := range map[string]string{
		"2xx": resultClass(t.Context(), &http.Response{StatusCode: 204}, nil), "canceled": resultClass(gone, nil, io.EOF),
		"timeout": resultClass(t.Context(), nil, timeout), "lost": resultClass(t.Context(), nil, io.EOF),
	} {
		if got != want {
			t.Errorf("class %s, want %s", got, want)
		}
	}
}

func TestUnknownCallIsCountedAsOther(t *testing.T) {
	if c := callOf(t.Context()); c.Service != "other" || c.Name != "other" {
		t.Errorf("%+v", c)
	}
}

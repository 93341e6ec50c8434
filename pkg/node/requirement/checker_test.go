package requirement

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/volume"
)

// requirementsMet reads the metric, by requirement.
func requirementsMet(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	met := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "growvol_node_requirement_met" {
			continue
		}
		for _, m := range f.GetMetric() {
			met[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
		}
	}
	return met
}

// What is missing is in the answer, the metric and, once, in the log; it is checked
// again each time.
func TestCheckHealthReportsEachMissingRequirement(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	reg := prometheus.NewRegistry()
	missing := map[string]error{}
	check := func(name string) Check {
		return Check{Name: name, Run: func(context.Context) error { return missing[name] }}
	}
	r := NewChecker(reg, slog.New(slog.NewTextHandler(&log, nil)), check("a"), check("b"))
	step := func(wantA, wantB float64, wantErr, wantLog []string) {
		t.Helper()
		log.Reset()
		err := r.CheckHealth(t.Context())
		if (err == nil) != (len(wantErr) == 0) {
			t.Fatalf("got %v, want an error with %q", err, wantErr)
		}
		for _, w := range wantErr {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("the error lacks %q: %v", w, err)
			}
		}
		if lines := strings.Count(log.String(), "\n"); lines != min(1, len(wantLog)) {
			t.Errorf("%d lines in the log, want them with %q:\n%s", lines, wantLog, &log)
		}
		for _, w := range wantLog {
			if !strings.Contains(log.String(), w) {
				t.Errorf("the log lacks %q: %s", w, &log)
			}
		}
		if met := requirementsMet(t, reg); met["a"] != wantA || met["b"] != wantB || len(met) != 2 {
			t.Errorf("met %v, want a %v and b %v", met, wantA, wantB)
		}
	}
	step(1, 1, nil, nil)
	missing["a"] = volume.Errorf(volume.KindPrecondition, "a is missing").WithRemedy("bring a")
	step(0, 1, []string{"a is missing", "bring a"}, []string{"level=ERROR", "requirement=a", "bring a"})
	missing["b"] = errors.New("b is missing")
	step(0, 0, []string{"a is missing", "bring a", "; b is missing"}, []string{"requirement=b"})
	step(0, 0, []string{"a is missing", "b is missing"}, nil)
	delete(missing, "a")
	step(1, 0, []string{"b is missing"}, []string{"level=INFO", "requirement=a"})
}

// A check that hangs neither holds up its caller nor is started again.
func TestCheckHealthEndsWhileACheckHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn, runs := make(chan struct{}), 0
		r := NewChecker(prometheus.NewRegistry(), slog.New(slog.DiscardHandler), Check{
			Name: "a", Run: func(context.Context) error { runs++; <-goOn; return nil },
		})
		for _, want := range []string{"still under way", "has not ended"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := r.CheckHealth(ctx)
			if !volume.IsKind(err, volume.KindDeadline) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want a deadline error with %q", err, want)
			}
			cancel()
		}
		close(goOn)
		synctest.Wait()
		if err := r.CheckHealth(t.Context()); err != nil || runs != 2 {
			t.Errorf("%d runs, %v; want 2", runs, err)
		}
	})
}

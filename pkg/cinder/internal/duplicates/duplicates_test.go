package duplicates

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
)

const cluster = "kubernetes"

// checkCount checks the only value of the metric; below 0: there must be none.
func checkCount(t *testing.T, reg *prometheus.Registry, want int) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := -1
	for _, f := range families {
		if n := len(f.GetMetric()); n != 1 {
			t.Errorf("%s has %d values, want 1", f.GetName(), n)
		}
		got = int(f.GetMetric()[0].GetGauge().GetValue())
	}
	if got != want {
		t.Errorf("the metric counts %d duplicates, want %d (-1: no value)", got, want)
	}
}

// Unfinished passes do not accumulate, and a count ends with the listings.
func TestOldPassesAndCountsAreDropped(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	d, err := New(slog.New(slog.DiscardHandler), cluster, reg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	add := func(token string, volumes int, next string) {
		page := Page{Cloud: "east", Token: token, Next: next}
		for i := range volumes {
			page.Volumes = append(page.Volumes, cloud.Volume{
				ID: fmt.Sprint(i), Name: "pvc-1", Metadata: map[string]string{metadata.Cluster: cluster},
			})
		}
		d.AddPage(ctx, page)
	}
	for i := range 100 {
		add("", 2, fmt.Sprint(i))
		if len(d.passes) > maxPasses {
			t.Fatalf("%d passes are kept, want at most %d", len(d.passes), maxPasses)
		}
	}
	d.passes["99"].begun = time.Now().Add(-2 * maxPassAge)
	add("99", 0, "")
	checkCount(t, reg, -1)
	add("98", 0, "")
	checkCount(t, reg, 1)
	// A pass that began before the last reported one is ignored.
	add("97", 4, "")
	checkCount(t, reg, 1)
	add("", 3, "")
	checkCount(t, reg, 2)
	d.reported = time.Now().Add(-2 * maxCountAge)
	checkCount(t, reg, -1)
}

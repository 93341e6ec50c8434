package growthreport

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"github.com/growvol/growvol/pkg/claim"
)

// growths are what is known of the claims that grow. It is a collector of metrics.
type growths struct {
	description *prometheus.Desc

	mu  sync.Mutex
	all map[types.NamespacedName]growth
}

// growth is what is known of one.
type growth struct {
	uid      types.UID
	kind     string    // of the diagnosis
	since    time.Time // when the diagnosis became of that kind, as far as is known
	state    state
	reported string // the last event's text
}

func newGrowths() *growths {
	return &growths{
		description: prometheus.NewDesc("growvol_operator_growths",
			"Claims that do not have the requested size, by the state of the growth: "+
				"running, unused (waits for a pod), delayed, stuck (a person has to act).",
			[]string{"state"}, nil),
		all: map[types.NamespacedName]growth{},
	}
}

// Describe implements prometheus.Collector.
func (g *growths) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- g.description }

// Collect implements prometheus.Collector.
func (g *growths) Collect(metrics chan<- prometheus.Metric) {
	counts := map[state]int{}
	g.mu.Lock()
	for _, growth := range g.all {
		counts[growth.state]++
	}
	g.mu.Unlock()
	for _, s := range states() {
		metrics <- prometheus.MustNewConstMetric(g.description, prometheus.GaugeValue, float64(counts[s]), string(s))
	}
}

// forget drops a claim that does not grow.
func (g *growths) forget(name types.NamespacedName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, name)
}

// update stores the diagnosis. It returns the state and when it changes, see judge, and whether the
// text has to be reported.
func (g *growths) update(
	name types.NamespacedName, uid types.UID, d claim.Diagnosis, note string, now time.Time,
) (current state, next time.Duration, isNew bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := g.all[name]
	if known.uid != uid || known.kind != d.Kind {
		known = growth{uid: uid, kind: d.Kind, since: now, reported: known.reported}
	}
	since := known.since
	if !d.Since.IsZero() && d.Since.Before(since) {
		since = d.Since
	}
	known.state, next = judge(d, since, now)
	if known.state == stateStuck || known.state == stateDelayed {
		isNew = known.reported != note
		known.reported = note
	}
	g.all[name] = known
	return known.state, next, isNew
}

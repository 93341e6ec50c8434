package autogrow

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// metrics count the decisions, and have the claims that cannot grow although they should.
type metrics struct {
	decisions *prometheus.CounterVec
	bytes     prometheus.Counter
	blocked   *prometheus.Desc
	claims    *prometheus.Desc

	mu       sync.Mutex
	verdicts map[types.NamespacedName]verdict
}

// blockedVerdicts are those after which a claim that is nearly full, or of which nothing is known,
// does not grow before something changes.
func blockedVerdicts() []verdict {
	return []verdict{
		verdictInvalid, verdictIneligible, verdictInfeasible, verdictLimit, verdictUnusable, verdictShort, verdictNoGain,
		verdictFleet, verdictRefused, verdictUnread,
	}
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "growvol_operator_grow_decisions_total",
			Help: "Decisions about claims that grow by themselves. A decision that stays the same is counted once.",
		}, []string{"decision"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "growvol_operator_grow_requested_bytes_total",
			Help: "Bytes by which the operator has raised requests.",
		}),
		blocked: prometheus.NewDesc("growvol_operator_grow_blocked",
			"1 for a claim that should grow by itself and cannot, by the cause.",
			[]string{"claim_namespace", "claim", "cause"}, nil),
		claims: prometheus.NewDesc("growvol_operator_grow_claims",
			"Claims in use that have opted in to grow by themselves.", nil, nil),
		verdicts: map[types.NamespacedName]verdict{},
	}
	registry.MustRegister(m.decisions, m.bytes, m)
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- m.blocked
	descriptions <- m.claims
}

// Collect implements prometheus.Collector. Only claims that are blocked have a series of their own.
func (m *metrics) Collect(all chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	blocked := blockedVerdicts()
	for name, v := range m.verdicts {
		for _, b := range blocked {
			if v == b {
				all <- prometheus.MustNewConstMetric(m.blocked, prometheus.GaugeValue, 1, name.Namespace, name.Name, string(v))
			}
		}
	}
	all <- prometheus.MustNewConstMetric(m.claims, prometheus.GaugeValue, float64(len(m.verdicts)))
}

// set stores the present decision about a claim.
func (m *metrics) set(name types.NamespacedName, v verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v == verdictOff {
		delete(m.verdicts, name)
		return
	}
	m.verdicts[name] = v
}

// forget drops a claim that is not read any more.
func (m *metrics) forget(name types.NamespacedName) { m.set(name, verdictOff) }

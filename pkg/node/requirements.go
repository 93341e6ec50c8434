package node

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/volume"
)

// Requirement is what the plugin needs of the node to do its work.
type Requirement struct {
	Name  string // in logs, and label of the metric
	Check func(context.Context) error
}

// Requirements tells whether the node has what the plugin needs. It is a
// volume.HealthChecker, for the CSI Probe.
type Requirements struct {
	list  []Requirement
	met   *prometheus.GaugeVec
	log   *slog.Logger
	locks operation.Locks // one check runs at a time, also if it hangs

	missing map[string]string // text of the last error, by name; empty: none; under the lock
}

var _ volume.HealthChecker = (*Requirements)(nil)

// NewRequirements registers growvol_node_requirement_met{requirement}: 1 if
// the last check found it, 0 if not.
func NewRequirements(reg prometheus.Registerer, log *slog.Logger, list ...Requirement) (*Requirements, error) {
	r := &Requirements{
		list: list, log: log, missing: map[string]string{},
		met: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "growvol_node_requirement_met",
			Help: "Whether the node has what the plugin needs, by requirement (1: yes, 0: no).",
		}, []string{"requirement"}),
	}
	return r, reg.Register(r.met)
}

// CheckHealth checks all requirements. The error names each missing one with cause
// and remedy. What is missing, and what is there again, is logged when that
// changes. An error of kind Deadline or Canceled says that a check did not end
// within ctx.
func (r *Requirements) CheckHealth(ctx context.Context) error {
	unlock, err := r.locks.Lock(ctx, "")
	if err != nil {
		return volume.Errorf(volume.KindOf(context.Cause(ctx)), "an earlier check of what the plugin needs of the node has not ended: %w", context.Cause(ctx)).
			WithRemedy("look for filesystems of the node that do not answer")
	}
	l := operation.NewLease(unlock)
	defer l.Release()
	_, err = operation.RunDetached(ctx, l, "checking what the plugin needs of the node", func() (struct{}, error) { return struct{}{}, r.check(ctx) })
	return err
}

func (r *Requirements) check(ctx context.Context) error {
	var all error
	for _, q := range r.list {
		err := q.Check(ctx)
		r.note(ctx, q.Name, err)
		switch {
		case err == nil:
		case all == nil:
			all = err
		default:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// note keeps the result of a check in the metric, and logs it if it is new.
func (r *Requirements) note(ctx context.Context, name string, err error) {
	before, text := r.missing[name], ""
	met := 1.0
	if err != nil {
		text, met = err.Error(), 0
	}
	r.met.WithLabelValues(name).Set(met)
	r.missing[name] = text
	switch text {
	case before:
	case "":
		r.log.InfoContext(ctx, "the node has again what the plugin needs", "requirement", name)
	default:
		r.log.ErrorContext(ctx, "the node lacks what the plugin needs", "requirement", name, "error", text)
	}
}

// Package requirement checks whether a node has what the node plugin needs, such as a writable
// state directory. Command growvol-node decides what to check; a Checker runs the checks for the
// CSI Probe and reports their results in the log and as a metric.
package requirement

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Check is one requirement. Run returns an error that says what is missing and what to do about it.
type Check struct {
	Name string // in logs, and the label of the metric
	Run  func(context.Context) error
}

// Checker runs checks. It implements volume.HealthChecker.
type Checker struct {
	checks []Check
	met    *prometheus.GaugeVec
	log    *slog.Logger
	locks  operation.Locks // one run at a time: a run that hangs is not repeated

	// lastErrors has the text of each check's last error by the check's name, empty after a success.
	lastErrors map[string]string
}

var _ volume.HealthChecker = (*Checker)(nil)

// NewChecker registers growvol_node_requirement_met{requirement}: 1 if the last run of the check
// succeeded, 0 if it failed.
func NewChecker(reg prometheus.Registerer, log *slog.Logger, checks ...Check) *Checker {
	return &Checker{
		checks: checks, log: log, lastErrors: map[string]string{},
		met: promauto.With(reg).NewGaugeVec(prometheus.GaugeOpts{
			Name: "growvol_node_requirement_met",
			Help: "Whether the node has what the plugin needs, by requirement (1: yes, 0: no).",
		}, []string{"requirement"}),
	}
}

// CheckHealth runs all checks. Its error joins the errors of the checks that failed. It logs a
// result that differs from the one before. An error of kind Deadline or Canceled says that a check
// did not end within ctx.
func (c *Checker) CheckHealth(ctx context.Context) error {
	unlock, err := c.locks.Lock(ctx, "")
	if err != nil {
		cause := context.Cause(ctx)
		return volume.Errorf(volume.KindOf(cause),
			"an earlier check of what the plugin needs of the node has not ended: %w", cause).
			WithRemedy("look for filesystems or disks that do not answer in the kernel log of this node: journalctl --dmesg")
	}
	lease := operation.NewLease(unlock)
	defer lease.Release()
	const what = "checking what the plugin needs of the node"
	_, err = operation.RunDetached(ctx, lease, what, func() (struct{}, error) {
		return struct{}{}, c.runAll(ctx)
	})
	return err
}

func (c *Checker) runAll(ctx context.Context) error {
	var all error
	for _, check := range c.checks {
		err := check.Run(ctx)
		c.report(ctx, check.Name, err)
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

// report sets the metric of a check, and logs its result if that differs from the one before.
func (c *Checker) report(ctx context.Context, name string, err error) {
	text, met := "", 1.0
	if err != nil {
		text, met = err.Error(), 0
	}
	c.met.WithLabelValues(name).Set(met)
	last := c.lastErrors[name]
	c.lastErrors[name] = text
	switch text {
	case last:
	case "":
		c.log.InfoContext(ctx, "the node has what the plugin needs again", "requirement", name)
	default:
		c.log.ErrorContext(ctx, "the node lacks what the plugin needs", "requirement", name, "error", text)
	}
}

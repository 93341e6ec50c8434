package kubectlplugin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/expansion"
	"github.com/growvol/growvol/pkg/volume"
)

// expandExamples are the examples in the help of the command expand. This file has the command:
// the checks, the growth of one claim, and the exit code.
const expandExamples = `  # Grow a claim to 20 GiB and follow it
  kubectl growvol expand data-db-0 20Gi

  # Add 5 GiB, without waiting
  kubectl growvol expand data-db-0 +5Gi --wait=false

  # Only check
  kubectl growvol expand data-db-0 20Gi --dry-run

  # Grow the claims of a StatefulSet, and its template for new replicas
  kubectl growvol expand sts/db 20Gi --recreate`

// defaultWait is how long expand follows a growth.
const defaultWait = "5m"

// expandOptions are the flags of the command expand.
type expandOptions struct {
	wait     string
	dryRun   bool
	parallel bool
	recreate bool
	template string
}

func (p *plugin) newExpandCommand() *cobra.Command {
	var o expandOptions
	cmd := &cobra.Command{
		Use:   "expand CLAIM|sts/NAME SIZE|+SIZE",
		Short: "Grow a claim, or the claims of a StatefulSet",
		Long: "expand checks what can be known before, requests the size, and shows each stage of the growth.\n\n" +
			"Exit code 0: grown; 1: refused; 2: still under way. Ctrl-C stops watching, not the growth.",
		Example: expandExamples,
		Args:    cobra.ExactArgs(2),
		ValidArgsFunction: func(
			cmd *cobra.Command, args []string, prefix string,
		) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return p.completeTargets(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return p.expand(cmd.Context(), o, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.wait, "wait", defaultWait, "how long to follow the growth; false: do not wait")
	flags.Lookup("wait").NoOptDefVal = defaultWait
	flags.BoolVar(&o.dryRun, "dry-run", false, "only check, and let the API server check the request")
	flags.BoolVar(&o.parallel, "parallel", false, "StatefulSet: grow all claims at once instead of one after another")
	flags.BoolVar(&o.recreate, "recreate", false,
		"StatefulSet: then delete it without its pods and claims, and create it again with the size in its template")
	flags.StringVar(&o.template, "template", "", "StatefulSet: which of its volumeClaimTemplates")
	return cmd
}

// parseWait returns how long to wait, or zero for not at all.
func parseWait(text string) (time.Duration, error) {
	if wait, err := strconv.ParseBool(text); err == nil {
		if !wait {
			return 0, nil
		}
		text = defaultWait
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("--wait=%s is not a time (next step: write --wait=10m or --wait=false)", text)
	}
	return d, nil
}

func (p *plugin) expand(ctx context.Context, o expandOptions, arg, sizeText string) error {
	size, err := expansion.ParseSize(sizeText)
	if err != nil {
		return err
	}
	t, err := parseTarget(arg)
	if err != nil {
		return err
	}
	wait, err := parseWait(o.wait)
	if err != nil {
		return err
	}
	if !t.isStatefulSet && (o.parallel || o.recreate || o.template != "") {
		return errors.New("--parallel, --recreate and --template are for a StatefulSet (next step: write sts/NAME)")
	}
	r, namespace, err := p.newReader()
	if err != nil {
		return err
	}
	run := expandRun{
		plugin: p, options: o, wait: wait, size: size,
		expander: &expansion.Expander{Client: r.Client, Reader: r},
	}
	if t.isStatefulSet {
		return run.statefulSet(ctx, namespace, t.name)
	}
	c, err := r.Claim(ctx, namespace, t.name)
	if err != nil {
		return err
	}
	growths, err := run.prepare(ctx, []corev1.PersistentVolumeClaim{*c})
	if err != nil || o.dryRun {
		return err
	}
	return exitError(run.grow(ctx, growths[0]))
}

// exitError returns the error for the exit code of an outcome.
func exitError(outcome expansion.Outcome) error {
	switch outcome {
	case expansion.OutcomeGrown:
		return nil
	case expansion.OutcomeRefused:
		return errReported
	case expansion.OutcomeUnderWay:
	}
	return errUnderWay
}

// expandRun is one run of the command expand.
type expandRun struct {
	*plugin
	options  expandOptions
	wait     time.Duration
	size     expansion.Size
	expander *expansion.Expander
}

// growth is one claim with its target.
type growth struct {
	claim  *corev1.PersistentVolumeClaim
	target resource.Quantity
}

// prepare checks the claims and prints the checks. It changes nothing. Its error is errReported if
// a check has failed.
func (r *expandRun) prepare(ctx context.Context, claims []corev1.PersistentVolumeClaim) ([]growth, error) {
	var growths []growth
	isRefused := false
	for i := range claims {
		c := &claims[i]
		target, err := r.size.Target(c)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		checks := r.expander.Check(ctx, r.expander.Reader.Objects(ctx, c), target)
		if !expansion.Refused(checks) {
			checks = append(checks, r.dryRun(ctx, c, target))
		}
		r.printf("%s: %s → %s\n", c.Name, claim.Capacity(c), volume.Size(target.Value()))
		for _, check := range checks {
			r.printCheck(check)
		}
		isRefused = isRefused || expansion.Refused(checks)
		growths = append(growths, growth{c, target})
	}
	if isRefused {
		r.errorf("%s\n", "refused: nothing was changed")
		return nil, errReported
	}
	if r.options.dryRun {
		r.printf("%s\n", "dry run: nothing was changed")
	}
	return growths, nil
}

// dryRun lets the API server check the request.
func (r *expandRun) dryRun(
	ctx context.Context,
	c *corev1.PersistentVolumeClaim,
	target resource.Quantity,
) expansion.Check {
	if err := r.expander.Request(ctx, c, target, true); err != nil {
		return expansion.Check{Verdict: expansion.VerdictFail, Text: err.Error()}
	}
	return expansion.Check{Verdict: expansion.VerdictOK, Text: "the API server accepts the request (dry run)"}
}

func (r *expandRun) printCheck(c expansion.Check) {
	text := c.Text
	if c.Next != "" {
		text += " (next step: " + c.Next + ")"
	}
	r.printf("  %-8s%s\n", c.Verdict, text)
}

// grow requests the target and follows the growth.
func (r *expandRun) grow(ctx context.Context, g growth) expansion.Outcome {
	show := newGrowthPrinter(r, g)
	if g.claim.Spec.Resources.Requests.Storage().Cmp(g.target) != 0 {
		if err := r.expander.Request(ctx, g.claim, g.target, false); err != nil {
			show.refused(err.Error())
			return expansion.OutcomeRefused
		}
	}
	if r.wait == 0 {
		show.notWatched()
		return expansion.OutcomeUnderWay
	}
	watchContext, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	outcome, status, err := r.expander.Watch(watchContext, g.claim, g.target, show.report)
	switch {
	case err != nil && outcome == expansion.OutcomeRefused:
		show.refused(err.Error())
	case err != nil:
		show.unwatchable(err)
	case outcome == expansion.OutcomeGrown:
		show.grown()
	case outcome == expansion.OutcomeRefused:
		show.refused(status.Diagnosis.Sentence(r.now()))
	case expansion.IsInterrupted(ctx):
		show.interrupted()
	default:
		show.underWay(&status)
	}
	return outcome
}

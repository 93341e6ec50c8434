package kubectlplugin

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/growvol/growvol/pkg/claim"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/claim/table"
)

// statusExamples are the examples in the help of the command status. This file has the command.
const statusExamples = `  # All layers of a claim, and what is stuck
  kubectl growvol status data-db-0

  # The claims of a StatefulSet
  kubectl growvol status sts/db

  # All claims of the cluster, those in trouble first
  kubectl growvol status -A

  # The names of the claims that match a label, as other commands read them
  kubectl growvol status -l app=db -o name`

// statusOptions are the flags of the command status.
type statusOptions struct {
	allNamespaces bool
	labels        string
	noHeaders     bool
	printFlags    *genericclioptions.PrintFlags
}

func (p *plugin) newStatusCommand() *cobra.Command {
	o := statusOptions{printFlags: genericclioptions.NewPrintFlags("")}
	cmd := &cobra.Command{
		Use:   "status [CLAIM|sts/NAME]...",
		Short: "Show each layer of a claim's size, and what is stuck",
		Long: "status shows the size of a claim in each layer, from the request to the filesystem, and says in one\n" +
			"sentence what is stuck, since when, and the next step. For several claims it prints a row each, those in\n" +
			"trouble first.",
		Example:           statusExamples,
		ValidArgsFunction: p.completeTargets,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.status(cmd.Context(), o, args) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "show the claims of all namespaces")
	flags.StringVarP(&o.labels, "selector", "l", "", "show the claims that match a label selector")
	flags.BoolVar(&o.noHeaders, "no-headers", false, "print no headers")
	o.printFlags.AddFlags(cmd)
	cmd.Flag("output").Usage = "Output format. One of: (wide, " + strings.Join(o.printFlags.AllowedFormats(), ", ") + ")."
	return cmd
}

func (o *statusOptions) format() string { return *o.printFlags.OutputFormat }

func (p *plugin) status(ctx context.Context, o statusOptions, args []string) error {
	if len(args) > 0 && (o.allNamespaces || o.labels != "") {
		return errors.New("names cannot be combined with --all-namespaces or --selector")
	}
	r, namespace, err := p.newReader()
	if err != nil {
		return err
	}
	if o.allNamespaces {
		namespace = ""
	}
	isTable := o.format() == "" || o.format() == "wide"
	claims, isSingle, err := findClaims(ctx, r, namespace, o.labels, args)
	if err != nil {
		return err
	}
	if len(claims) == 0 {
		p.reportNothing(o, namespace, args)
		return nil
	}
	if isSingle {
		s := r.Status(ctx, &claims[0])
		if isTable {
			return table.PrintClaim(p.Out, &s, p.tableOptions(o))
		}
		return p.printObjects(o, []claim.Status{s}, true)
	}
	statuses := r.Statuses(ctx, claims)
	sortByTrouble(statuses)
	if isTable {
		return table.PrintRows(p.Out, statuses, p.tableOptions(o))
	}
	return p.printObjects(o, statuses, false)
}

func (p *plugin) tableOptions(o statusOptions) table.Options {
	return table.Options{
		Now: p.now(), Color: p.hasColor(), Wide: o.format() == "wide", Namespace: o.allNamespaces, NoHeaders: o.noHeaders,
	}
}

// findClaims returns the claims of the arguments, or the selected ones. isSingle reports whether
// the arguments are the name of one claim.
func findClaims(
	ctx context.Context, r *reader.Reader, namespace, labels string, args []string,
) (claims []corev1.PersistentVolumeClaim, isSingle bool, err error) {
	if len(args) == 0 {
		claims, err = r.Claims(ctx, reader.Selection{Namespace: namespace, Labels: labels})
		return claims, false, err
	}
	for _, arg := range args {
		t, err := parseTarget(arg)
		if err != nil {
			return nil, false, err
		}
		if t.isStatefulSet {
			set, err := r.StatefulSetClaims(ctx, namespace, t.name)
			if err != nil {
				return nil, false, err
			}
			claims = append(claims, set.Claims...)
			continue
		}
		c, err := r.Claim(ctx, namespace, t.name)
		if err != nil {
			return nil, false, err
		}
		claims, isSingle = append(claims, *c), len(args) == 1
	}
	return claims, isSingle, nil
}

// reportNothing says why no claim is shown.
func (p *plugin) reportNothing(o statusOptions, namespace string, args []string) {
	text := "no claims found"
	if len(args) > 0 {
		text += " of " + strings.Join(args, ", ")
	}
	if o.labels != "" {
		text += " with the labels " + o.labels
	}
	if namespace != "" {
		text += " in namespace " + namespace
	}
	p.errorf("%s\n", text)
}

// sortByTrouble orders the claims: those that need a person first, then the fullest.
func sortByTrouble(statuses []claim.Status) {
	used := func(s claim.Status) int {
		if s.Usage == nil {
			return -1
		}
		return s.Usage.UsedPercent
	}
	slices.SortStableFunc(statuses, func(a, b claim.Status) int {
		return cmp.Or(
			cmp.Compare(b.Diagnosis.Severity.Rank(), a.Diagnosis.Severity.Rank()),
			cmp.Compare(used(b), used(a)),
			strings.Compare(a.Namespace, b.Namespace),
			strings.Compare(a.Name, b.Name),
		)
	})
}

package kubectlplugin

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/growvol/growvol/pkg/claim/doctor"
	"github.com/growvol/growvol/pkg/claim/reader"
	"github.com/growvol/growvol/pkg/claim/table"
)

// doctorExamples are the examples in the help of the command doctor. This file has the command.
const doctorExamples = `  # The installation of growvol
  kubectl growvol doctor

  # All claims of the cluster whose filesystem is smaller than they say, of any CSI driver
  kubectl growvol doctor --all

  # The same for a script
  kubectl growvol doctor --all -o json`

// doctorKind is the kind of the object that doctor prints.
const doctorKind = "DoctorReport"

// doctorOptions are the flags of the command doctor.
type doctorOptions struct {
	all        bool
	printFlags *genericclioptions.PrintFlags
}

// doctorReport is what the command doctor prints as JSON or YAML.
type doctorReport struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Checks     []doctor.Check `json:"checks,omitempty"`
	Claims     *doctor.Claims `json:"claims,omitempty"`
}

func (p *plugin) newDoctorCommand() *cobra.Command {
	o := doctorOptions{printFlags: genericclioptions.NewPrintFlags("")}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong before a growth fails",
		Long: "doctor checks the installation of growvol: its objects, pods, sidecars, classes and nodes.\n\n" +
			"doctor --all reads all claims of the cluster, of any CSI driver, and prints those whose filesystem is\n" +
			"smaller than the claim says, with the bytes that are missing.\n\n" +
			"The exit code is 1 if something is wrong, otherwise 0. Warnings do not change it.",
		Example: doctorExamples,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.doctor(cmd.Context(), o) },
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "check the filesystems of all claims of the cluster instead")
	o.printFlags.AddFlags(cmd)
	return cmd
}

func (p *plugin) doctor(ctx context.Context, o doctorOptions) error {
	if o.all {
		r, _, err := p.newReader()
		if err != nil {
			return err
		}
		return p.doctorClaims(ctx, o, r)
	}
	c, err := p.newClients()
	if err != nil {
		return err
	}
	d, err := doctor.New(c.kubernetes, c.nodes)
	if err != nil {
		return err
	}
	checks := d.Check(ctx)
	if *o.printFlags.OutputFormat == "" {
		err = table.PrintChecks(p.Out, checkRows(checks), table.Options{Color: p.hasColor()})
	} else {
		err = p.printReport(o, doctorReport{Checks: checks})
	}
	if err == nil && doctor.HasFailed(checks) {
		return errReported
	}
	return err
}

// checkRows returns the checks as rows of a table.
func checkRows(checks []doctor.Check) []table.Check {
	rows := make([]table.Check, 0, len(checks))
	for _, c := range checks {
		rows = append(rows, table.Check{Verdict: string(c.Verdict), Name: c.Name, Text: c.Text, Next: c.Next})
	}
	return rows
}

// doctorClaims checks all claims of the cluster.
func (p *plugin) doctorClaims(ctx context.Context, o doctorOptions, r *reader.Reader) error {
	all, err := r.Claims(ctx, reader.Selection{})
	if err != nil {
		return err
	}
	claims := doctor.CheckClaims(r.Statuses(ctx, all))
	if *o.printFlags.OutputFormat == "" {
		err = p.printClaims(&claims)
	} else {
		err = p.printReport(o, doctorReport{Claims: &claims})
	}
	if err == nil && len(claims.Short) > 0 {
		return errReported
	}
	return err
}

// printClaims prints the short claims, and what was not checked.
func (p *plugin) printClaims(c *doctor.Claims) error {
	switch {
	case len(c.Short) > 0:
		if err := table.PrintShort(p.Out, c.Short, table.Options{Now: p.now(), Color: p.hasColor()}); err != nil {
			return err
		}
		p.printf("\n%d of %d checked claims have less than they say: at least %s are missing\n",
			len(c.Short), c.Checked, table.ShortSize(c.MissingBytes))
		s := &c.Short[0]
		p.printf("next step: read what is stuck, for each of them: kubectl growvol status %s --namespace %s\n",
			s.Name, s.Namespace)
	case c.Checked == 0:
		p.printf("%s\n", "no claim could be checked")
	default:
		p.printf("no filesystem is smaller than its claim says: %s checked\n", countClaims(c.Checked))
	}
	if unchecked := c.Total - c.Checked; unchecked > 0 {
		p.printf("\n%s not checked:\n", countClaims(unchecked))
		for _, u := range c.Unchecked {
			p.printf("  %d: %s: %s\n", len(u.Claims), u.Reason, joinAtMost(u.Claims, maxNames))
		}
	}
	return nil
}

// maxNames is the number of claims that a line names.
const maxNames = 3

// joinAtMost joins the names, and the number of those above limit.
func joinAtMost(names []string, limit int) string {
	if len(names) > limit {
		return strings.Join(names[:limit], ", ") + fmt.Sprintf(" and %d more", len(names)-limit)
	}
	return strings.Join(names, ", ")
}

func countClaims(n int) string {
	if n == 1 {
		return "1 claim"
	}
	return fmt.Sprintf("%d claims", n)
}

// printReport prints the report with kubectl's printers.
func (p *plugin) printReport(o doctorOptions, report doctorReport) error {
	printer, err := o.printFlags.ToPrinter()
	if err != nil {
		return err
	}
	report.APIVersion, report.Kind = statusAPIVersion, doctorKind
	raw, err := json.Marshal(report)
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(raw); err != nil {
		return err
	}
	return printer.PrintObj(object, p.Out)
}

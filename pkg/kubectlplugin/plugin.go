// Package kubectlplugin has the commands of `kubectl growvol`. Packages below pkg/claim do the
// work; this package reads the command line, connects to the cluster as kubectl does, and prints.
package kubectlplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"

	"github.com/growvol/growvol/pkg/claim/doctor"
	"github.com/growvol/growvol/pkg/claim/reader"
)

// The exit codes. Every error but those of a growth that is under way is a refusal.
const (
	exitDone     = 0
	exitRefused  = 1
	exitUnderWay = 2
)

// errUnderWay is the error of a growth that is still under way.
var errUnderWay = errors.New("the growth is still under way")

// errReported is the error of a refusal whose reason is already printed.
var errReported = errors.New("the reason is printed")

// plugin is what the commands share.
type plugin struct {
	genericiooptions.IOStreams
	config *genericclioptions.ConfigFlags
	now    func() time.Time
	// driverNamespace is the namespace of growvol's release; empty: all are searched.
	driverNamespace string
	getenv          func(string) string
	// newClients connects to the cluster of the command line. Tests replace it.
	newClients func() (clients, error)
}

// clients are the connections to the cluster.
type clients struct {
	kubernetes kubernetes.Interface
	stats      reader.Stats
	driver     reader.Driver // nil: no driver gives readings
	nodes      doctor.NodeReader
}

// Run runs the plugin with the arguments of the command line until it ends or ctx ends, and returns
// the exit code.
func Run(ctx context.Context, args []string, streams genericiooptions.IOStreams) int {
	p := &plugin{
		IOStreams: streams, config: genericclioptions.NewConfigFlags(true), now: time.Now, getenv: os.Getenv,
	}
	p.newClients = p.connect
	return p.run(ctx, args)
}

func (p *plugin) run(ctx context.Context, args []string) int {
	root := p.newRoot() //nolint:contextcheck // cobra passes the context to each command
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errUnderWay):
		return exitUnderWay
	case !errors.Is(err, errReported):
		p.errorf("%s\n", "error: "+err.Error())
	}
	return exitRefused
}

func (p *plugin) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "kubectl-growvol",
		Short:         "Show and grow the volumes of claims",
		Long:          "kubectl growvol shows every layer that the size of a claim passes through, and grows claims.",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl growvol"},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.ErrOut)
	p.config.AddFlags(root.PersistentFlags())
	root.PersistentFlags().StringVar(&p.driverNamespace, "driver-namespace", "",
		"namespace in which growvol is installed; empty: find it, which needs the right to list pods in all namespaces")
	root.AddCommand(p.newStatusCommand(), p.newExpandCommand(), p.newDoctorCommand())
	return root
}

// connect makes the clients from the flags and the kubeconfig.
func (p *plugin) connect() (clients, error) {
	config, err := p.config.ToRESTConfig()
	if err != nil {
		return clients{}, err
	}
	config.QPS, config.Burst = 50, 200 // the nodes of a large cluster are read one by one
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return clients{}, err
	}
	nodes := client.CoreV1().RESTClient()
	return clients{
		kubernetes: client, stats: reader.Kubelet{Client: nodes}, nodes: doctor.Proxy{Client: nodes},
		driver: driverReadings{kubernetes: client, namespace: p.driverNamespace},
	}, nil
}

// newReader returns a reader of the cluster, and the namespace of the command line or of the
// kubeconfig's context.
func (p *plugin) newReader() (r *reader.Reader, namespace string, err error) {
	c, err := p.newClients()
	if err != nil {
		return nil, "", err
	}
	namespace, _, err = p.config.ToRawKubeConfigLoader().Namespace()
	return &reader.Reader{Client: c.kubernetes, Stats: c.stats, Driver: c.driver, Now: p.now}, namespace, err
}

// printf prints to the standard output. A terminal that is gone cannot show the error of a write.
func (p *plugin) printf(format string, args ...any) { _, _ = fmt.Fprintf(p.Out, format, args...) }

// errorf prints to the standard error output.
func (p *plugin) errorf(format string, args ...any) { _, _ = fmt.Fprintf(p.ErrOut, format, args...) }

// isTerminal reports whether w is a terminal that shows colors and moves its cursor.
func (p *plugin) isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && p.getenv("TERM") != "dumb"
}

// hasColor reports whether to print with colors, see https://no-color.org.
func (p *plugin) hasColor() bool { return p.getenv("NO_COLOR") == "" && p.isTerminal(p.Out) }

// target is a claim or a StatefulSet of the command line.
type target struct {
	name          string
	isStatefulSet bool
}

// parseTarget reads an argument: NAME or pvc/NAME is a claim, sts/NAME a StatefulSet.
func parseTarget(arg string) (target, error) {
	kind, name, found := strings.Cut(arg, "/")
	if !found {
		return target{name: arg}, nil
	}
	if name == "" || strings.Contains(name, "/") {
		return target{}, fmt.Errorf("%q is not KIND/NAME (next step: write CLAIM, pvc/CLAIM or sts/NAME)", arg)
	}
	switch strings.ToLower(kind) {
	case "pvc", "persistentvolumeclaim", "persistentvolumeclaims":
		return target{name: name}, nil
	case "sts", "statefulset", "statefulsets", "statefulset.apps", "statefulsets.apps":
		return target{name: name, isStatefulSet: true}, nil
	}
	return target{}, fmt.Errorf("%q is neither a claim nor a StatefulSet (next step: write CLAIM, pvc/CLAIM or sts/NAME)",
		arg)
}

// completeTargets completes the names of claims and StatefulSets.
func (p *plugin) completeTargets(
	cmd *cobra.Command, _ []string, prefix string,
) (names []string, directive cobra.ShellCompDirective) {
	r, namespace, err := p.newReader()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names, err = r.Names(cmd.Context(), namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var matching []string
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			matching = append(matching, name)
		}
	}
	return matching, cobra.ShellCompDirectiveNoFileComp
}

// Command growvol-operator watches the claims of a Kubernetes cluster: it wakes kubelet when a
// volume in use has grown, and grows claims that are nearly full. It holds a token of the API
// server and no credentials of a cloud.
//
// main.go parses the command line and runs package operator.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/growvol/growvol/pkg/operator"
	"github.com/growvol/growvol/pkg/version"
	"github.com/growvol/growvol/pkg/volume"
)

// Exit codes, as those of the plugins.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// config is the command line.
type config struct {
	operator.Options
	drivers     string
	maxPerHour  string
	kubeconfig  string
	logFormat   string
	logLevel    string
	showVersion bool
}

func (c *config) register(fs *flag.FlagSet) {
	fs.StringVar(&c.drivers, "drivers", "", "names of the CSI drivers whose claims are watched, with commas in between")
	fs.BoolVar(&c.WakeKubelet, "wake-kubelet", true,
		"annotate the pods of a volume that has grown, so that kubelet grows the filesystem at once")
	c.registerGrowth(fs)
	fs.BoolVar(&c.LeaderElection, "leader-election", false, "run only while this process has the lease")
	fs.StringVar(&c.LeaseName, "lease-name", "growvol-operator", "name of the lease")
	fs.StringVar(&c.LeaseNamespace, "lease-namespace", "", "namespace of the lease; empty: that of the pod")
	fs.StringVar(&c.MetricsAddress, "metrics-endpoint", "", "host:port of /metrics; empty: off")
	fs.StringVar(&c.HealthAddress, "health-endpoint", "", "host:port of /healthz and /readyz; empty: off")
	fs.StringVar(&c.kubeconfig, "kubeconfig", "", "file with the address of the API server; empty: that of the pod")
	fs.StringVar(&c.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.BoolVar(&c.showVersion, "version", false, "print the version and exit")
}

func (c *config) registerGrowth(fs *flag.FlagSet) {
	r, g := &c.Readings, &c.Grow
	fs.StringVar(&r.Driver, "readings-driver", "", "name of the CSI driver whose node plugins give readings; empty: off")
	fs.StringVar(&r.Namespace, "readings-namespace", "", "namespace of the pods of these plugins")
	fs.StringVar(&r.Account, "readings-account", "",
		"ServiceAccount in that namespace with whose tokens the plugins answer; empty: that of the chart")
	fs.BoolVar(&g.IsEnabled, "grow", false, "raise the request of claims that have opted in and are nearly full")
	fs.BoolVar(&g.IsDryRun, "grow-dry-run", false, "with --grow: write events about growths, and request none")
	fs.DurationVar(&g.Interval, "grow-interval", 10*time.Second, "time between two readings of a claim that has opted in")
	fs.DurationVar(&g.Cooldown, "grow-cooldown", 0, "time between two growths of a claim that names none")
	fs.StringVar(&c.maxPerHour, "grow-max-per-hour", "1Ti", "what all claims together may grow in an hour; 0: no limit")
	fs.IntVar(&g.MaxAtOnce, "grow-max-at-once", 20, "how many claims may grow at the same time; 0: no limit")
}

// run runs the operator until ctx ends, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c config
	fs := flag.NewFlagSet("growvol-operator", flag.ContinueOnError)
	fs.SetOutput(stderr)
	c.register(fs)
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil: // package flag has printed it
		return exitUsage
	case fs.NArg() > 0:
		printError(stderr, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
		return exitUsage
	case c.showVersion:
		_, _ = fmt.Fprintln(stdout, "growvol-operator", version.String()) // a failed write cannot be reported
		return exitOK
	}
	if err := c.serve(ctx, stderr); err != nil {
		printError(stderr, err)
		return exitFailed
	}
	return exitOK
}

// serve connects to the API server and runs the operator.
func (c *config) serve(ctx context.Context, stderr io.Writer) error {
	log, err := newLogger(stderr, c.logFormat, c.logLevel)
	if err != nil {
		return err
	}
	klog.SetSlogLogger(log) // global to the process: the log of client-go
	c.Log = log
	c.Drivers = strings.FieldsFunc(c.drivers, func(r rune) bool { return r == ',' || r == ' ' })
	maxPerHour, err := resource.ParseQuantity(c.maxPerHour)
	if err != nil {
		return fmt.Errorf("--grow-max-per-hour %q is no size, such as 1Ti", c.maxPerHour)
	}
	c.Grow.MaxPerHour = volume.Size(maxPerHour.Value())
	connection, err := c.connection()
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "growvol-operator starts", "version", version.String(), "drivers", c.Drivers)
	return operator.Run(ctx, connection, c.Options)
}

func (c *config) connection() (*rest.Config, error) {
	if c.kubeconfig == "" {
		connection, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("%w (next step: run in a pod, or set --kubeconfig)", err)
		}
		return connection, nil
	}
	connection, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read --kubeconfig: %w", err)
	}
	return connection, nil
}

// newLogger returns a logger that writes records of at least level in format.
func newLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	var minLevel slog.Level
	if err := minLevel.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q is not known: use debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: minLevel}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q is not known: use text or json", format)
}

func printError(w io.Writer, err error) {
	_, _ = fmt.Fprintf(w, "growvol-operator: %v\n", err) // a failed write cannot be reported
}

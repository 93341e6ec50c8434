package csiserver

import (
	"cmp"
	"context"
	"flag"
	"io"
	"log/slog"
	"os"
	"time"
)

// Flags are the command line options that all plugins of growvol share.
type Flags struct {
	Endpoint     string // set the plugin's default before Program.Run
	HTTPEndpoint string
	// VolumesEndpoint is host:port of the readings of volumes; empty: off. The program serves it.
	VolumesEndpoint string
	DriverName      string // empty: the backend's default
	CallTimeout     time.Duration
	Grace           time.Duration

	logFormat   string
	logLevel    string
	showVersion bool
}

// endpointVariable is the environment variable in which the CSI specification gives a
// plugin its endpoint (spec, "Configuration and Operation").
const endpointVariable = "CSI_ENDPOINT"

// register defines the options on fs. The default of --endpoint is CSI_ENDPOINT of the
// environment, or else f.Endpoint.
func (f *Flags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.Endpoint, "endpoint", cmp.Or(os.Getenv(endpointVariable), f.Endpoint),
		"CSI socket: unix:///path or tcp://host:port; "+endpointVariable+" sets the default")
	fs.StringVar(&f.HTTPEndpoint, "http-endpoint", "", "host:port of /healthz, /livez and /metrics; empty: off")
	fs.StringVar(&f.VolumesEndpoint, "volumes-endpoint", "",
		"host:port of /volumes over TLS, which answers with the sizes of the volumes' layers to tokens that the "+
			"API server of the pod's cluster allows to get that path; empty: off")
	fs.StringVar(&f.DriverName, "driver-name", "", "name of the CSI driver; empty: the default of the backend")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
	fs.StringVar(&f.logLevel, "log-level", "info",
		"debug, info, warn or error; debug shows requests and responses without their secrets")
	fs.DurationVar(&f.CallTimeout, "call-timeout", defaultCallTimeout, "timeout of calls whose caller sets no deadline")
	fs.DurationVar(&f.Grace, "grace", DefaultGrace,
		"how long running calls, and work that continues after its call, may together take when the plugin stops")
	fs.BoolVar(&f.showVersion, "version", false, "print the version and exit")
}

// logger returns the logger of the options and redirects klog to it.
func (f *Flags) logger(ctx context.Context, w io.Writer) (*slog.Logger, error) {
	log, err := newLogger(w, f.logFormat, f.logLevel)
	if err != nil {
		return nil, err
	}
	return log, redirectKlog(ctx, log)
}

// Options returns the server options of the command line. The caller sets the services,
// the logger and the metrics.
func (f *Flags) Options() Options {
	return Options{Endpoint: f.Endpoint, HTTPEndpoint: f.HTTPEndpoint, CallTimeout: f.CallTimeout, Grace: f.Grace}
}

package csiserver

import (
	"flag"
	"io"
	"log/slog"
	"os"
	"time"
)

// endpointVariable is where the CSI specification has a plugin look for its
// endpoint (spec, "Configuration and Operation").
const endpointVariable = "CSI_ENDPOINT"

// Flags are the command line options that all plugins of growvol share.
type Flags struct {
	Endpoint     string
	HTTPEndpoint string
	DriverName   string // empty: the backend's default
	LogFormat    string
	LogLevel     string
	CallTimeout  time.Duration
	Grace        time.Duration
	ShowVersion  bool // print Version and exit
}

// Register defines the options on fs. What f holds already are the defaults;
// CSI_ENDPOINT in the environment goes before the default endpoint.
func (f *Flags) Register(fs *flag.FlagSet) {
	def := func(value, fallback string) string {
		if value != "" {
			return value
		}
		return fallback
	}
	endpoint := def(os.Getenv(endpointVariable), f.Endpoint)
	fs.StringVar(&f.Endpoint, "endpoint", endpoint, "CSI socket: unix:///path or tcp://host:port; "+endpointVariable+" sets the default")
	fs.StringVar(&f.HTTPEndpoint, "http-endpoint", f.HTTPEndpoint, "host:port of /healthz, /livez and /metrics; empty: off")
	fs.StringVar(&f.DriverName, "driver-name", f.DriverName, "name of the CSI driver; empty: the default of the backend")
	fs.StringVar(&f.LogFormat, "log-format", def(f.LogFormat, "text"), "text or json")
	fs.StringVar(&f.LogLevel, "log-level", def(f.LogLevel, "info"), "debug, info, warn or error; debug shows requests and replies without their secrets")
	if f.CallTimeout == 0 {
		f.CallTimeout = DefaultCallTimeout
	}
	if f.Grace == 0 {
		f.Grace = DefaultGrace
	}
	fs.DurationVar(&f.CallTimeout, "call-timeout", f.CallTimeout, "deadline of calls whose caller sets none")
	fs.DurationVar(&f.Grace, "grace", f.Grace, "how long running calls, and work that has outlived its call, may go on together when the plugin is stopped")
	fs.BoolVar(&f.ShowVersion, "version", false, "print the version and exit")
}

// Logger makes the logger of the options and sends klog to it; see NewLogger
// and BridgeKlog.
func (f *Flags) Logger(w io.Writer) (*slog.Logger, error) {
	level, err := parseLevel(f.LogLevel)
	if err != nil {
		return nil, err
	}
	log, err := NewLogger(w, f.LogFormat, level.String())
	if err != nil {
		return nil, err
	}
	return log, BridgeKlog(log, level)
}

// Options returns server options as the command line says; the services, the
// logger and the metrics are still to be set.
func (f *Flags) Options() Options {
	return Options{Endpoint: f.Endpoint, HTTPEndpoint: f.HTTPEndpoint, CallTimeout: f.CallTimeout, Grace: f.Grace}
}

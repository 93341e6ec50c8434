// Command growvol-controller is the CSI controller plugin: it creates,
// attaches, snapshots and grows volumes in a storage system.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/volume"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program: it serves until ctx ends. It returns 0 after a graceful
// stop, 1 when something failed and 2 when the command line is wrong.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case c.ShowVersion:
		_, _ = fmt.Fprintln(stdout, "growvol-controller", csiserver.Version()) // nobody to tell
		return 0
	}
	if err := serve(ctx, c, stderr); err != nil {
		_, _ = fmt.Fprintln(stderr, "growvol-controller:", err) // nobody to tell
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (config, error) {
	c := config{Flags: csiserver.Flags{Endpoint: "unix:///run/growvol/controller.sock"}}
	fs := flag.NewFlagSet("growvol-controller", flag.ContinueOnError)
	fs.SetOutput(stderr)
	c.Register(fs)
	c.registerBackend(fs)
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	if fs.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", fs.Arg(0))
		_, _ = fmt.Fprintln(stderr, "growvol-controller:", err) // nobody to tell
		return c, err
	}
	return c, nil
}

func serve(ctx context.Context, c config, stderr io.Writer) error {
	log, err := c.Logger(stderr)
	if err != nil {
		return err
	}
	backend, driverName, err := open(ctx, c, log)
	if err != nil {
		return err
	}
	if c.DriverName != "" {
		driverName = c.DriverName
	}
	_, topology := backend.(volume.TopologyAware)
	var probe func(context.Context) error
	if checker, ok := backend.(volume.HealthChecker); ok {
		probe = checker.Healthy
	}
	capabilities := csiserver.Capabilities{Controller: true, Topology: topology, Expansion: true}
	identity, err := csiserver.NewIdentity(driverName, csiserver.Version(), capabilities, probe)
	if err != nil {
		return err
	}
	options := c.Options()
	options.Log, options.Identity = log, identity
	options.Controller = controller.New(backend, controller.Options{Log: log})
	return csiserver.Run(ctx, options)
}

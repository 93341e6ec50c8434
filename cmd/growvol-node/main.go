// Command growvol-node is the CSI node plugin: it stages, publishes and grows
// volumes on the node it runs on. It holds no credentials of any cloud.
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
	"syscall"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/pkg/node"
	"github.com/growvol/growvol/pkg/volume"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// config is what the command line says.
type config struct {
	csiserver.Flags
	nodeID        string
	connector     string
	loopDir       string
	stateDir      string
	defaultFSType string
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
		_, _ = fmt.Fprintln(stdout, "growvol-node", csiserver.Version()) // nobody to tell
		return 0
	}
	if err := serve(ctx, c, stderr); err != nil {
		_, _ = fmt.Fprintln(stderr, "growvol-node:", err) // nobody to tell
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (config, error) {
	hostname, _ := os.Hostname() // an empty node id is refused later, with the option's name
	c := config{Flags: csiserver.Flags{Endpoint: "unix:///run/growvol/node.sock"}}
	fs := flag.NewFlagSet("growvol-node", flag.ContinueOnError)
	fs.SetOutput(stderr)
	c.Register(fs)
	fs.StringVar(&c.nodeID, "node-id", hostname, "name of this node, as the controller plugin knows it")
	fs.StringVar(&c.connector, "backend", loop.Name, "where the volumes come from: "+loop.Name)
	fs.StringVar(&c.loopDir, "loop-dir", loop.DefaultDir, "directory of the loop backend's volumes, shared with the controller plugin")
	fs.StringVar(&c.stateDir, "state-dir", "/var/lib/growvol/node", "directory for markers of formats under way; must survive a restart of the plugin")
	fs.StringVar(&c.defaultFSType, "default-fstype", string(filesystem.Ext4), "filesystem of volumes whose class names none")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	if fs.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", fs.Arg(0))
		_, _ = fmt.Fprintln(stderr, "growvol-node:", err) // nobody to tell
		return c, err
	}
	return c, nil
}

func serve(ctx context.Context, c config, stderr io.Writer) error {
	log, err := c.Logger(stderr) //nolint:contextcheck // what libraries log belongs to no call
	if err != nil {
		return err
	}
	defaultType, err := filesystem.ParseType(c.defaultFSType)
	if err != nil {
		return fmt.Errorf("--default-fstype: %w", err)
	}
	connector, driverName, err := connect(c, log)
	if err != nil {
		return err
	}
	metrics := csiserver.NewMetrics()
	observer, err := node.NewMetrics(metrics.Registerer())
	if err != nil {
		return err
	}
	server, err := node.New(node.Options{
		ID: c.nodeID, Connector: connector, Devices: blockdev.New(), Filesystems: filesystem.New(filesystem.Options{Logger: log}),
		StateDir: c.stateDir, DefaultFSType: defaultType, Log: log, Observer: observer,
	})
	if err != nil {
		return err
	}
	if c.DriverName != "" {
		driverName = c.DriverName
	}
	info, err := connector.Node(ctx)
	if err != nil {
		return err
	}
	// The capabilities are those of the plugin as a whole, the same in each
	// part of it (spec v1.13, GetPluginCapabilities).
	capabilities := csiserver.Capabilities{Controller: true, Topology: len(info.Topology) > 0, Expansion: true}
	identity, err := csiserver.NewIdentity(driverName, csiserver.Version(), capabilities, nil)
	if err != nil {
		return err
	}
	options := c.Options()
	options.Log, options.Identity, options.Node, options.Metrics = log, identity, server, metrics
	log.InfoContext(ctx, "growvol-node starts", "version", csiserver.Version(), "driver", driverName, "node", c.nodeID, "endpoint", c.Endpoint)
	return csiserver.Run(ctx, options)
}

// connect chooses the connector: the one place that knows them by name.
func connect(c config, log *slog.Logger) (volume.Connector, string, error) {
	switch c.connector {
	case loop.Name:
		connector, err := loop.NewConnector(loop.ConnectorOptions{Dir: c.loopDir, Node: c.nodeID, Log: log})
		return connector, loop.DriverName, err
	default:
		return nil, "", fmt.Errorf("--backend %q is not known; use %s", c.connector, loop.Name)
	}
}

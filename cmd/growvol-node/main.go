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

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := config{Flags: csiserver.Flags{Endpoint: "unix:///run/growvol/node.sock"}}
	return csiserver.Program{
		Name: "growvol-node", Flags: &c.Flags, Register: c.register,
		Serve: func(ctx context.Context, log *slog.Logger) error { return serve(ctx, c, log) },
	}.Run(ctx, args, stdout, stderr)
}

// config is what the command line says.
type config struct {
	csiserver.Flags
	nodeID        string
	backend       string
	loopDir       string
	stateDir      string
	defaultFSType string
	requireShared bool
}

func (c *config) register(fs *flag.FlagSet) {
	hostname, _ := os.Hostname() // an empty node id is refused later
	fs.StringVar(&c.nodeID, "node-id", hostname, "name of this node, as the controller plugin knows it")
	fs.StringVar(&c.backend, "backend", loop.Name, "where the volumes come from: "+loop.Name)
	fs.StringVar(&c.loopDir, "loop-dir", loop.DefaultDir, "directory of the loop backend's volumes, shared with the controller plugin")
	fs.StringVar(&c.stateDir, "state-dir", "/var/lib/growvol/node", "directory for markers of formats under way; must survive a restart of the plugin")
	fs.StringVar(&c.defaultFSType, "default-fstype", string(filesystem.Ext4), "filesystem of volumes whose class names none")
	fs.BoolVar(&c.requireShared, "require-shared-mounts", inContainer(), "refuse to mount where the mount would stay in this process's mount namespace; the default is true in a container")
}

// inContainer tells whether the root filesystem is a container's.
func inContainer() bool {
	m, ok, err := filesystem.New(filesystem.Options{}).FindMount("/")
	return err == nil && ok && m.FSType == "overlay"
}

func serve(ctx context.Context, c config, log *slog.Logger) error {
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
		StateDir: c.stateDir, DefaultFSType: defaultType, RequireShared: c.requireShared, Log: log, Observer: observer,
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
	log.InfoContext(ctx, "growvol-node starts", "version", csiserver.Version(), "driver", driverName, "backend", c.backend, "node", c.nodeID, "endpoint", c.Endpoint)
	return csiserver.Run(ctx, options)
}

// connect chooses the connector: the one place that knows them by name.
func connect(c config, log *slog.Logger) (volume.Connector, string, error) {
	switch c.backend {
	case loop.Name:
		if c.nodeID == "" {
			return nil, "", errors.New("--node-id is empty and the host has no name: give the name of this node")
		}
		connector, err := loop.NewConnector(loop.ConnectorOptions{Dir: c.loopDir, Node: c.nodeID, Log: log})
		return connector, loop.DriverName, err
	default:
		return nil, "", fmt.Errorf("--backend %q is not known; use %s", c.backend, loop.Name)
	}
}

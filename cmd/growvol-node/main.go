// Command growvol-node is the CSI node plugin: it stages, publishes and grows
// volumes on the node it runs on. It holds no credentials of any cloud.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/node"
)

func main() { newProgram().Main() }

func newProgram() csiserver.Program {
	c := config{Flags: csiserver.Flags{Endpoint: "unix:///run/growvol/node.sock"}}
	return csiserver.Program{
		Name: "growvol-node", Flags: &c.Flags, Register: c.register,
		Serve: func(ctx context.Context, log *slog.Logger) error { return serve(ctx, c, log) },
	}
}

// inContainer tells whether the root filesystem is a container's.
func inContainer() bool {
	m, ok, err := filesystem.New(filesystem.Options{}).FindMount("/")
	return err == nil && ok && m.FSType == "overlay"
}

// growOnDeviceChange grows volumes when their devices grow, beside what else the
// plugin does. stop ends it, and waits for that until its own ctx ends; growths that
// are under way then are detached work.
func growOnDeviceChange(ctx context.Context, server *node.Server) (stop func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.GrowOnDeviceChange(ctx)
	}()
	return func(ctx context.Context) {
		cancel()
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
}

func serve(ctx context.Context, c config, log *slog.Logger) error {
	defaultType, err := filesystem.ParseType(c.defaultFSType)
	if err != nil {
		return fmt.Errorf("--default-fstype: %w", err)
	}
	side, err := newBackend(ctx, c, log)
	if err != nil {
		return err
	}
	metrics, detached := csiserver.NewMetrics(), new(operation.Tracker)
	nodeMetrics, err := node.NewMetrics(metrics.Registerer())
	if err != nil {
		return err
	}
	filesystems := filesystem.New(filesystem.Options{Log: log})
	requirements, err := watchRequirements(ctx, c, filesystems, side.connector, metrics.Registerer(), log)
	if err != nil {
		return err
	}
	server, err := node.New(node.Options{
		ID: side.nodeID, Connector: side.connector, Devices: node.LocalDevices{System: blockdev.New()}, Filesystems: filesystems,
		Mappings: luks.New(luks.Options{Log: log}),
		StateDir: c.stateDir, DefaultFSType: defaultType, RequireShared: c.requireShared, Log: log, Metrics: nodeMetrics,
		Detached: detached,
	})
	if err != nil {
		return err
	}
	driverName := cmp.Or(c.DriverName, side.driverName)
	info, err := side.connector.Node(ctx)
	if err != nil {
		return err
	}
	// The capabilities are those of the plugin as a whole, the same in each
	// part of it (spec v1.13, GetPluginCapabilities).
	capabilities := csiserver.Capabilities{Controller: true, Topology: len(info.Topology) > 0, Expansion: true}
	identity, err := csiserver.NewIdentity(driverName, csiserver.Version(), capabilities, requirements.CheckHealth)
	if err != nil {
		return err
	}
	options := c.Options()
	options.Log, options.Identity, options.Node, options.Metrics, options.Detached = log, identity, server, metrics, detached
	stop, err := removeStartupTaint(ctx, c.taintedNode, driverName, log)
	if err != nil {
		return err
	}
	defer stop()
	if c.growOnChange {
		options.Stopping = growOnDeviceChange(ctx, server)
		defer options.Stopping(ctx) // when Run fails before it has served
	}
	log.InfoContext(ctx, "growvol-node starts", "version", csiserver.Version(), "driver", driverName, "backend", c.backend, "node", side.nodeID, "endpoint", c.Endpoint)
	return csiserver.Run(ctx, options)
}

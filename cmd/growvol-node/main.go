// Command growvol-node is the CSI node plugin: it stages, publishes and grows volumes on the node
// it runs on. It holds no credentials of any cloud.
//
// main.go wires package node to a backend (backend.go), with the options of config.go and the
// checks of requirements.go, and serves it through package csiserver.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/cgroup"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/luks"
	"github.com/growvol/growvol/pkg/node"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/readings/endpoint"
	"github.com/growvol/growvol/pkg/version"
)

func main() { newProgram().Main() }

// newProgram returns the plugin as package csiserver runs it.
func newProgram() csiserver.Program {
	c := config{Flags: csiserver.Flags{Endpoint: "unix:///run/growvol/node.sock"}}
	return csiserver.Program{
		Name: "growvol-node", Flags: &c.Flags, Register: c.register,
		Serve: func(ctx context.Context, log *slog.Logger) error { return serve(ctx, c, log) },
	}
}

// isInContainer reports whether the root filesystem is a container's.
func isInContainer() bool {
	m, ok, err := filesystem.New(filesystem.Options{}).FindMount("/")
	return err == nil && ok && m.FSType == "overlay"
}

// startGrowOnDeviceChange starts Server.GrowOnDeviceChange. stop ends it and waits until it has
// returned or stop's own ctx has ended; a growth that is running then is detached work.
func startGrowOnDeviceChange(ctx context.Context, server *node.Server) (stop func(ctx context.Context)) {
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

// nodeOptions returns the options of the Node service that depend on the command line alone.
func nodeOptions(c config, log *slog.Logger) (node.Options, error) {
	defaultType, err := filesystem.ParseType(c.defaultFSType)
	if err != nil {
		return node.Options{}, fmt.Errorf("--default-fstype: %w", err)
	}
	return node.Options{
		Devices:  node.LocalDevices{System: blockdev.New()},
		Mappings: luks.New(luks.Options{Log: log, AllowDiscards: c.discards}),
		StateDir: c.stateDir, DefaultFSType: defaultType, RequireShared: c.requireShared,
		Limiter: cgroup.System{Root: c.cgroupRoot}, Log: log, Detached: new(operation.Tracker),
	}, nil
}

// serve serves the Identity and Node services until ctx ends. Meanwhile it removes the start-up
// taint and grows volumes whose device has grown, as the command line says.
func serve(ctx context.Context, c config, log *slog.Logger) error {
	opts, err := nodeOptions(c, log)
	if err != nil {
		return err
	}
	backend, err := newBackend(ctx, c, log)
	if err != nil {
		return err
	}
	driverName := cmp.Or(c.DriverName, backend.driverName)
	options, err := newOptions(ctx, c, opts, backend, driverName)
	if err != nil {
		return err
	}
	if options.Stopping != nil {
		defer options.Stopping(ctx) // when Run fails before it serves
	}
	defer backend.kubernetes.start(ctx)()
	stop, err := startRemovingTaint(ctx, c.taintedNode, driverName, log)
	if err != nil {
		return err
	}
	defer stop()
	log.InfoContext(ctx, "growvol-node starts", "version", version.String(), "driver", driverName,
		"backend", c.backend, "node", backend.nodeID, "endpoint", c.Endpoint)
	return csiserver.Run(ctx, options)
}

// newOptions makes the services and returns what csiserver.Run serves. It starts what
// options.Stopping ends.
func newOptions(
	ctx context.Context, c config, opts node.Options, backend nodeBackend, driverName string,
) (options csiserver.Options, err error) {
	options = c.Options()
	options.Log, options.Metrics, options.Detached = opts.Log, csiserver.NewMetrics(), opts.Detached
	filesystems := filesystem.New(filesystem.Options{Log: opts.Log})
	requirements := newRequirementChecker(ctx, c, filesystems, backend.connector, options.Metrics.Registerer(), opts.Log)
	opts.Metrics = node.NewMetrics(options.Metrics.Registerer())
	opts.ID, opts.Connector, opts.Filesystems = backend.nodeID, backend.connector, filesystems
	server, err := node.New(opts)
	if err != nil {
		return options, err
	}
	info, err := backend.connector.Node(ctx)
	if err != nil {
		return options, err
	}
	options.Node, options.ReclaimSpaceNode = server, server
	options.Identity, err = csiserver.NewIdentity(
		driverName, len(info.Topology) > 0, requirements.CheckHealth, backend.services...)
	if err != nil {
		return options, err
	}
	stopReadings, err := endpoint.StartInCluster(ctx, endpoint.Options{
		Address: c.VolumesEndpoint, Read: server.ReadVolumes, Log: opts.Log,
		Answer: readings.Answer{Driver: driverName, Node: opts.ID, Version: version.String()},
	}, c.serviceAccountDir)
	if err != nil {
		return options, fmt.Errorf("--volumes-endpoint: %w", err)
	}
	stopGrow := func(context.Context) {}
	if c.growOnChange {
		stopGrow = startGrowOnDeviceChange(ctx, server)
	}
	if c.growOnChange || c.VolumesEndpoint != "" {
		options.Stopping = func(ctx context.Context) { stopReadings(); stopGrow(ctx) }
	}
	return options, nil
}

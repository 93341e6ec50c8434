// Command growvol-controller is the CSI controller plugin: it creates, attaches, snapshots
// and expands volumes in a storage system. It holds the credentials of the storage system.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/readings/endpoint"
	"github.com/growvol/growvol/pkg/version"
)

func main() { newProgram().Main() }

// newProgram returns the plugin as package csiserver runs it.
func newProgram() csiserver.Program {
	c := config{Flags: csiserver.Flags{Endpoint: "unix:///run/growvol/controller.sock"}}
	return csiserver.Program{
		Name: "growvol-controller", Flags: &c.Flags, Register: c.register,
		Serve: func(ctx context.Context, log *slog.Logger) error { return serve(ctx, c, log) },
	}
}

// serve opens the backend and serves the services of the plugin until ctx ends.
func serve(ctx context.Context, c config, log *slog.Logger) error {
	options, closeBackend, err := newOptions(ctx, c, log)
	if err != nil {
		return err
	}
	defer closeBackend()
	return csiserver.Run(ctx, options)
}

// newOptions opens the backend and returns what csiserver.Run serves.
func newOptions(
	ctx context.Context, c config, log *slog.Logger,
) (options csiserver.Options, closeBackend func(), err error) {
	options = c.Options()
	options.Log, options.Metrics = log, csiserver.NewMetrics()
	backend, err := openBackend(ctx, c, log, options.Metrics.Registerer())
	if err != nil {
		return options, nil, err
	}
	driverName := cmp.Or(c.DriverName, backend.driverName)
	server := controller.New(backend.Backend, controller.Options{Log: log})
	options.Identity, err = csiserver.NewIdentity(
		driverName, backend.HasTopology(), backend.CheckHealth, server.PluginServices()...)
	if err != nil {
		backend.close()
		return options, nil, err
	}
	options.Controller, options.GroupController, options.SnapshotMetadata = server, server, server
	options.ReclaimSpaceController = server
	options.Detached = backend.detached
	stopReadings, err := endpoint.StartInCluster(ctx, endpoint.Options{
		Address: c.VolumesEndpoint, Read: server.ReadVolumes, Log: log,
		Answer: readings.Answer{Driver: driverName, Version: version.String()},
	}, c.serviceAccountDir)
	if err != nil {
		backend.close()
		return options, nil, fmt.Errorf("--volumes-endpoint: %w", err)
	}
	log.InfoContext(ctx, "growvol-controller starts",
		"version", version.String(), "driver", driverName, "backend", c.backend, "endpoint", c.Endpoint)
	return options, func() { stopReadings(); backend.close() }, nil
}

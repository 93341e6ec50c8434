// Command growvol-controller is the CSI controller plugin: it creates, attaches, snapshots
// and expands volumes in a storage system. It holds the credentials of the storage system.
package main

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/csiserver"
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

// serve opens the backend and serves the Identity and Controller services until ctx ends.
func serve(ctx context.Context, c config, log *slog.Logger) error {
	metrics := csiserver.NewMetrics()
	backend, err := openBackend(ctx, c, log, metrics.Registerer())
	if err != nil {
		return err
	}
	defer backend.close()
	driverName := cmp.Or(c.DriverName, backend.driverName)
	identity, err := csiserver.NewIdentity(driverName, backend.HasTopology(), backend.CheckHealth)
	if err != nil {
		return err
	}
	options := c.Options()
	options.Log, options.Identity, options.Metrics, options.Detached = log, identity, metrics, backend.detached
	options.Controller = controller.New(backend.Backend, controller.Options{Log: log})
	log.InfoContext(ctx, "growvol-controller starts",
		"version", csiserver.Version(), "driver", driverName, "backend", c.backend, "endpoint", c.Endpoint)
	return csiserver.Run(ctx, options)
}

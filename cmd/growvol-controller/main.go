// Command growvol-controller is the CSI controller plugin: it creates,
// attaches, snapshots and grows volumes in a storage system.
package main

import (
	"cmp"
	"context"
	"log/slog"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/volume"
)

func main() { newProgram().Main() }

func newProgram() csiserver.Program {
	c := config{Flags: csiserver.Flags{Endpoint: "unix:///run/growvol/controller.sock"}}
	return csiserver.Program{
		Name: "growvol-controller", Flags: &c.Flags, Register: c.register,
		Serve: func(ctx context.Context, log *slog.Logger) error { return serve(ctx, c, log) },
	}
}

func serve(ctx context.Context, c config, log *slog.Logger) error {
	metrics := csiserver.NewMetrics()
	backend, err := open(ctx, c, log, metrics.Registerer())
	if err != nil {
		return err
	}
	defer backend.close()
	driverName := cmp.Or(c.DriverName, backend.driver)
	aware, ok := backend.Backend.(volume.TopologyAware)
	topology := ok && aware.HasTopology()
	var probe func(context.Context) error
	if checker, ok := backend.Backend.(volume.HealthChecker); ok {
		probe = checker.CheckHealth
	}
	capabilities := csiserver.Capabilities{Controller: true, Topology: topology, Expansion: true}
	identity, err := csiserver.NewIdentity(driverName, csiserver.Version(), capabilities, probe)
	if err != nil {
		return err
	}
	options := c.Options()
	options.Log, options.Identity, options.Metrics, options.Detached = log, identity, metrics, backend.detached
	options.Controller = controller.New(backend.Backend, controller.Options{Log: log})
	log.InfoContext(ctx, "growvol-controller starts", "version", csiserver.Version(), "driver", driverName, "backend",
		c.backend, "endpoint", c.Endpoint)
	return csiserver.Run(ctx, options)
}

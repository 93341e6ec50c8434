package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"

	"github.com/growvol/growvol/pkg/attached"
	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/pkg/volume"
)

// side is the node's side of a backend.
type side struct {
	connector  volume.Connector
	driverName string // the default one
	nodeID     string
}

// connect chooses the node's side of the backend: the one place that knows
// them by name.
func connect(ctx context.Context, c config, log *slog.Logger) (side, error) {
	switch c.backend {
	case loop.Name:
		return connectLoop(c, log)
	case attached.Name:
		return connectCinder(ctx, c, log)
	default:
		return side{}, fmt.Errorf("--backend %q is not known; use %s or %s", c.backend, loop.Name, attached.Name)
	}
}

func connectLoop(c config, log *slog.Logger) (side, error) {
	id := c.nodeID
	if id == "" {
		name, err := os.Hostname()
		if err != nil {
			return side{}, fmt.Errorf("--node-id is not given, and the host has no name: %w", err)
		}
		id = name
	}
	connector, err := loop.NewConnector(loop.ConnectorOptions{Dir: c.loopDir, Node: id, Log: log})
	return side{connector, loop.DriverName, id}, err
}

func connectCinder(_ context.Context, c config, log *slog.Logger) (side, error) {
	if c.maxVolumes < 0 {
		return side{}, errors.New("--max-volumes is negative")
	}
	if c.nodeID == "" {
		return side{}, errors.New("--node-id is not given")
	}
	info := volume.NodeInfo{MaxVolumes: c.maxVolumes}
	if c.withTopology && c.zone != "" {
		info.Topology = volume.Topology{attached.TopologyKey: c.zone}
		maps.Copy(info.Topology, c.topology)
	}
	connector, err := attached.New(attached.Options{
		Devices: blockdev.New(), Log: log,
		Node: func(context.Context) (volume.NodeInfo, error) { return info, nil },
	})
	return side{connector, attached.DriverName, c.nodeID}, err
}

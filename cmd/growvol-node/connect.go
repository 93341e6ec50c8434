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
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/instance"
	"github.com/growvol/growvol/pkg/loop"
	"github.com/growvol/growvol/pkg/node"
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
	case cindercsi.Name:
		return connectCinder(ctx, c, log)
	default:
		return side{}, fmt.Errorf("--backend %q is not known; use %s or %s", c.backend, loop.Name, cindercsi.Name)
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

// connectCinder finds out who and where this machine is; without that its
// volumes would be attached to another.
func connectCinder(ctx context.Context, c config, log *slog.Logger) (side, error) {
	switch {
	case c.maxVolumes < 0:
		return side{}, errors.New("--max-volumes is negative")
	case c.reservedVolumes < 0:
		return side{}, errors.New("--reserved-volumes is negative")
	case c.maxVolumes > 0 && c.reservedVolumes > 0:
		return side{}, errors.New("--reserved-volumes is subtracted from what is found out, which --max-volumes replaces: give one of the two")
	}
	devices := blockdev.New()
	who, err := instance.Identify(ctx, instance.Options{ID: c.nodeID, Zone: c.zone, WithZone: c.withTopology, Disks: devices, Log: log})
	if err != nil {
		return side{}, err
	}
	log.InfoContext(ctx, "this machine in OpenStack", "server", who.ID, "according_to", who.IDFrom, "zone", who.Zone, "zone_according_to", who.ZoneFrom)
	place := place{config: c, disks: devices, log: log}
	if c.withTopology {
		label := cindercsi.ZoneLabel(who.Zone)
		if label == "" {
			return side{}, fmt.Errorf("the zone %q (according to %s) has no character that a label may have: give another as --zone", who.Zone, who.ZoneFrom)
		}
		place.topology = volume.Topology{cindercsi.TopologyKey: label}
		maps.Copy(place.topology, c.topology)
	}
	connector, err := attached.New(attached.Options{Devices: devices, Log: log, Node: place.describe})
	return side{connector, cindercsi.DriverName, who.ID}, err
}

// place is what the orchestrator is told of this machine.
type place struct {
	config   config
	disks    instance.Disks
	topology volume.Topology
	log      *slog.Logger
}

// describe counts anew each time: what is plugged in changes.
func (p place) describe(ctx context.Context) (volume.NodeInfo, error) {
	info := volume.NodeInfo{Topology: p.topology, MaxVolumes: p.config.maxVolumes}
	if info.MaxVolumes > 0 {
		return info, nil
	}
	limit, err := instance.AttachLimit(ctx, instance.LimitOptions{
		Disks: p.disks, Own: []string{"/", p.config.stateDir}, Reserved: p.config.reservedVolumes,
		Staged: func() []string { return node.StagedVolumes(p.config.stateDir) },
	})
	if err != nil {
		return info, err
	}
	p.log.InfoContext(ctx, "how many volumes this machine can take", "volumes", limit.Volumes, "reason", limit.Reason)
	info.MaxVolumes = limit.Volumes
	return info, nil
}

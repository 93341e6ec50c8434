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
	"github.com/growvol/growvol/pkg/loop/loopdev"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/volume"
)

// nodeBackend is the node's side of a backend.
type nodeBackend struct {
	connector  volume.Connector
	driverName string // the default one
	nodeID     string
}

// newBackend chooses the node's side of the backend: the one place that knows
// them by name.
func newBackend(ctx context.Context, c config, log *slog.Logger) (nodeBackend, error) {
	switch c.backend {
	case loopcsi.Name:
		return newLoopBackend(c, log)
	case cindercsi.Name:
		return newCinderBackend(ctx, c, log)
	default:
		return nodeBackend{}, fmt.Errorf("--backend %q is not known; use %s or %s", c.backend, loopcsi.Name, cindercsi.Name)
	}
}

func newLoopBackend(c config, log *slog.Logger) (nodeBackend, error) {
	id := c.nodeID
	if id == "" {
		name, err := os.Hostname()
		if err != nil {
			return nodeBackend{}, fmt.Errorf("--node-id is not given, and the host has no name: %w", err)
		}
		id = name
	}
	connector, err := loopdev.New(loopdev.Options{Dir: c.loopDir, Node: id, Log: log})
	return nodeBackend{connector, loopcsi.DriverName, id}, err
}

// newCinderBackend finds out who and where this machine is; without that its
// volumes would be attached to another.
func newCinderBackend(ctx context.Context, c config, log *slog.Logger) (nodeBackend, error) {
	switch {
	case c.maxVolumes < 0:
		return nodeBackend{}, errors.New("--max-volumes is negative")
	case c.reservedVolumes < 0:
		return nodeBackend{}, errors.New("--reserved-volumes is negative")
	case c.maxVolumes > 0 && c.reservedVolumes > 0:
		return nodeBackend{}, errors.New("--reserved-volumes is subtracted from what is found out, which --max-volumes replaces: give one of the two")
	}
	devices := blockdev.New()
	who, err := instance.Identify(ctx, instance.Options{ID: c.nodeID, Zone: c.zone, NeedsZone: c.withTopology, Disks: devices, Log: log})
	if err != nil {
		return nodeBackend{}, err
	}
	log.InfoContext(ctx, "this machine in OpenStack", "server", who.ID, "according_to", who.IDSource, "zone", who.Zone, "zone_according_to", who.ZoneSource)
	place := nodeDescriber{config: c, disks: devices, log: log}
	if c.withTopology {
		label := cindercsi.ZoneLabel(who.Zone)
		if label == "" {
			return nodeBackend{}, fmt.Errorf("the zone %q (according to %s) has no character that a label may have: give another as --zone", who.Zone, who.ZoneSource)
		}
		place.topology = volume.Topology{cindercsi.TopologyKey: label}
		maps.Copy(place.topology, c.topology)
	}
	connector, err := attached.New(attached.Options{Devices: devices, Log: log, Node: place.describe})
	return nodeBackend{connector, cindercsi.DriverName, who.ID}, err
}

// nodeDescriber is what the orchestrator is told of this machine.
type nodeDescriber struct {
	config   config
	disks    instance.Disks
	topology volume.Topology
	log      *slog.Logger
}

// describe counts anew each time: what is plugged in changes.
func (p nodeDescriber) describe(ctx context.Context) (volume.NodeInfo, error) {
	info := volume.NodeInfo{Topology: p.topology, MaxVolumes: p.config.maxVolumes}
	if info.MaxVolumes > 0 {
		return info, nil
	}
	limit, err := instance.AttachLimit(ctx, instance.LimitOptions{
		Disks: p.disks, OwnPaths: []string{"/", p.config.stateDir}, Reserved: p.config.reservedVolumes,
		Staged: func() []string { return stagerecord.Store{Dir: p.config.stateDir, Log: p.log}.IDs(ctx) },
	})
	if err != nil {
		return info, err
	}
	p.log.InfoContext(ctx, "how many volumes this machine can take", "volumes", limit.Volumes, "reason", limit.Reason)
	info.MaxVolumes = limit.Volumes
	return info, nil
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/attached"
	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/instance"
	"github.com/growvol/growvol/pkg/loop/loopdev"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/node/stagerecord"
	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbd/krbd"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// nodeBackend is the node's half of a backend.
type nodeBackend struct {
	connector  volume.Connector
	driverName string                              // default of --driver-name
	nodeID     string                              // of this node, as the controller's Attach knows it
	services   []csi.PluginCapability_Service_Type // of the controller plugin; see csiserver.NewIdentity
	kubernetes kubernetesNode
}

// backendNames are the values of --backend, for messages.
const backendNames = loopcsi.Name + ", " + cindercsi.Name + " or " + rbdcsi.Name

// newBackend makes the backend of --backend. Only this file knows the backends by name.
func newBackend(ctx context.Context, c config, log *slog.Logger) (nodeBackend, error) {
	if c.maxVolumes < 0 {
		return nodeBackend{}, errors.New("--max-volumes is negative")
	}
	switch c.backend {
	case loopcsi.Name:
		return newLoopBackend(c, log)
	case cindercsi.Name:
		return newCinderBackend(ctx, c, log)
	case rbdcsi.Name:
		return newRBDBackend(ctx, c, log)
	default:
		return nodeBackend{}, fmt.Errorf("--backend %q is not known: use %s", c.backend, backendNames)
	}
}

func newLoopBackend(c config, log *slog.Logger) (nodeBackend, error) {
	id, err := hostID(c)
	if err != nil {
		return nodeBackend{}, err
	}
	connector, err := loopdev.New(loopdev.Options{Dir: c.loopDir, Node: id, Log: log})
	return nodeBackend{connector: connector, driverName: loopcsi.DriverName, nodeID: id}, err
}

// hostID returns --node-id, or the name of the host if the option is not set.
func hostID(c config) (string, error) {
	if c.nodeID != "" {
		return c.nodeID, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("--node-id is not set, and the name of the host cannot be read: %w", err)
	}
	return name, nil
}

func newRBDBackend(ctx context.Context, c config, log *slog.Logger) (nodeBackend, error) {
	if c.cephConfig == "" {
		return nodeBackend{}, fmt.Errorf("--backend=%s needs to know the clusters: set --ceph-config", c.backend)
	}
	id, err := hostID(c)
	if err != nil {
		return nodeBackend{}, err
	}
	n, err := openKubernetesNode(ctx, c, log)
	if err != nil {
		return nodeBackend{}, err
	}
	topology := volume.Topology{}
	maps.Copy(topology, n.topology)
	maps.Copy(topology, c.topology)
	connector, err := krbd.New(krbd.Options{
		Clusters: cluster.Files{Config: c.cephConfig, Keys: c.cephKeys}, Devices: blockdev.New(),
		StateDir: filepath.Join(c.stateDir, "rbd"), CrushLocation: cmp.Or(c.crushLocation, n.location),
		Recorder: n.krbdRecorder(), Log: log,
		Node: volume.NodeInfo{Topology: topology, MaxVolumes: c.maxVolumes},
	})
	return nodeBackend{
		connector: connector, driverName: rbdcsi.DriverName, nodeID: id, services: rbdServices(), kubernetes: n,
	}, err
}

// newCinderBackend finds out which server this machine is and where it is: with a wrong identity
// its volumes would be attached to another server.
func newCinderBackend(ctx context.Context, c config, log *slog.Logger) (nodeBackend, error) {
	switch {
	case c.reservedVolumes < 0:
		return nodeBackend{}, errors.New("--reserved-volumes is negative")
	case c.maxVolumes > 0 && c.reservedVolumes > 0:
		return nodeBackend{}, errors.New("--reserved-volumes is subtracted from the limit that the plugin detects, " +
			"but --max-volumes replaces that limit: set only one of the two")
	}
	devices := blockdev.New()
	identity, err := instance.Identify(ctx, instance.Options{
		ID: c.nodeID, Zone: c.zone, NeedsZone: c.withTopology, Disks: devices, Log: log,
	})
	if err != nil {
		return nodeBackend{}, err
	}
	log.InfoContext(ctx, "this machine in OpenStack", "server", identity.ID, "according_to", identity.IDSource,
		"zone", identity.Zone, "zone_according_to", identity.ZoneSource)
	var topology volume.Topology
	if c.withTopology {
		label := cindercsi.ZoneLabel(identity.Zone)
		if label == "" {
			return nodeBackend{}, fmt.Errorf(
				"the zone %q (according to %s) has no character that a label may have: set another name with --zone",
				identity.Zone, identity.ZoneSource)
		}
		topology = volume.Topology{cindercsi.TopologyKey: label}
		maps.Copy(topology, c.topology)
	}
	connector, err := attached.New(attached.Options{
		Devices: devices, Log: log,
		Node: func(ctx context.Context) (volume.NodeInfo, error) {
			limit, err := attachLimit(ctx, c, devices, log)
			return volume.NodeInfo{Topology: topology, MaxVolumes: limit}, err
		},
	})
	return nodeBackend{connector: connector, driverName: cindercsi.DriverName, nodeID: identity.ID}, err
}

// attachLimit returns how many volumes can be attached to this machine. It counts the disks in each
// call: disks are plugged in and unplugged.
func attachLimit(ctx context.Context, c config, disks instance.Disks, log *slog.Logger) (int64, error) {
	if c.maxVolumes > 0 {
		return c.maxVolumes, nil
	}
	records := stagerecord.Store{Dir: c.stateDir, Log: log}
	limit, err := instance.AttachLimit(ctx, instance.LimitOptions{
		Disks: disks, OwnPaths: []string{"/", c.stateDir}, Reserved: c.reservedVolumes,
		Staged: func() []string { return records.IDs(ctx) },
	})
	if err != nil {
		return 0, err
	}
	log.InfoContext(ctx, "counted the volumes that can be attached to this machine",
		"volumes", limit.Volumes, "reason", limit.Reason)
	return limit.Volumes, nil
}

// rbdServices returns what growvol-controller derives from package rbd, which a node plugin must
// not import; TestServicesAreThoseThatTheNodeReports of package rbd has the same list.
func rbdServices() []csi.PluginCapability_Service_Type {
	return []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE, csi.PluginCapability_Service_SNAPSHOT_METADATA_SERVICE,
	}
}

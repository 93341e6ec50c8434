package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/rbd/krbd"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// This file holds what the rbd backend does with the Node of this machine in Kubernetes: it records
// there which images are mapped, and reads the labels that say where the machine is.

// kubernetesNode is the Node of this machine. The zero value is no Node.
type kubernetesNode struct {
	recorder *noderecord.Recorder // nil: none
	location string               // in the CRUSH map, according to the labels; empty: unknown
	topology volume.Topology      // segments according to the labels of --domain-labels
}

// openKubernetesNode returns the Node of --kubernetes-node. Without it the plugin works, but the
// controller cannot fence this node when it is lost. It fails if the Node has no label for a domain
// of --domain-labels: without it, pods could be started where their volumes cannot be reached.
func openKubernetesNode(ctx context.Context, c config, log *slog.Logger) (kubernetesNode, error) {
	if err := checkNodeOptions(c); err != nil {
		return kubernetesNode{}, err
	}
	if c.kubernetesNode == "" || !c.recordClients {
		log.WarnContext(ctx, "the mapped images are not recorded, and the controller cannot fence this node "+
			"when it is lost: --kubernetes-node is not set, or --record-clients is false")
	}
	if c.kubernetesNode == "" {
		return kubernetesNode{}, nil
	}
	api, err := kubeapi.InCluster()
	if err != nil {
		return kubernetesNode{}, fmt.Errorf("--kubernetes-node: %w", err)
	}
	if c.serviceAccountDir != "" {
		api.Dir = c.serviceAccountDir
	}
	var n kubernetesNode
	if c.recordClients {
		n.recorder = noderecord.NewRecorder(noderecord.Options{
			API: api, Node: c.kubernetesNode, Driver: cmp.Or(c.DriverName, rbdcsi.DriverName), Log: log,
		})
	}
	if c.crushLabels != "" {
		n.location = readLocation(ctx, api, c, log)
	}
	if c.domainLabels != "" {
		n.topology, err = readTopology(ctx, api, c)
	}
	return n, err
}

// checkNodeOptions returns an error if the options for the Node do not fit each other.
func checkNodeOptions(c config) error {
	switch {
	case c.kubernetesNode == "" && c.crushLabels != "":
		return errors.New("--crush-location-labels needs --kubernetes-node, the Node that has the labels")
	case c.kubernetesNode == "" && c.domainLabels != "":
		return errors.New("--domain-labels needs --kubernetes-node, the Node that has the labels")
	case c.crushLabels != "" && c.crushLocation != "":
		return errors.New("--crush-location and --crush-location-labels are both set: set one of the two")
	}
	return nil
}

// readTopology returns the topology segments of the Node: for each key of --domain-labels the key
// without its prefix, after TopologyPrefix, as in ceph-csi, and the value of the label.
func readTopology(ctx context.Context, api kubeapi.API, c config) (volume.Topology, error) {
	n, err := api.ReadNode(ctx, c.kubernetesNode)
	if err != nil {
		return nil, fmt.Errorf("cannot read the labels of --domain-labels: %w", err)
	}
	topology := volume.Topology{}
	for key := range strings.SplitSeq(c.domainLabels, ",") {
		key = strings.TrimSpace(key)
		segment := rbdcsi.TopologyPrefix + domainOf(key)
		value := n.Metadata.Labels[key]
		if value == "" {
			return nil, fmt.Errorf("the Node %s has no label %s, which --domain-labels names "+
				"(next step: run `kubectl label node %s %s=NAME`)", c.kubernetesNode, key, c.kubernetesNode, key)
		}
		if _, found := topology[segment]; found {
			return nil, fmt.Errorf("--domain-labels %s: two labels end in %s, but each must give another domain",
				c.domainLabels, domainOf(key))
		}
		topology[segment] = value
	}
	return topology, nil
}

// domainOf returns the key of a label without its prefix.
func domainOf(key string) string { return key[strings.LastIndex(key, "/")+1:] }

// readLocation reads the labels of the Node. Reads from the nearest replica are not worth that the
// plugin does not start: it logs what is missing.
func readLocation(ctx context.Context, api kubeapi.API, c config, log *slog.Logger) string {
	n, err := api.ReadNode(ctx, c.kubernetesNode)
	if err != nil {
		log.WarnContext(ctx, "cannot read the labels of the Node: reads go to the primary replicas until the next start",
			"node", c.kubernetesNode, "cause", err)
		return ""
	}
	location, missing := crushLocation(n.Metadata.Labels, strings.Split(c.crushLabels, ","))
	if len(missing) > 0 {
		log.WarnContext(ctx, "the Node lacks labels of --crush-location-labels", "node", c.kubernetesNode, "missing", missing)
	}
	log.InfoContext(ctx, "reads go to the nearest replica", "location", location)
	return location
}

// crushLocation returns the place of a node in the CRUSH map, type:name|type:name, from the labels
// of those keys, in their order. The type is the key without its prefix, as in ceph-csi, and a dot
// in the name becomes a dash: topology.kubernetes.io/zone=eu.1 gives zone:eu-1.
func crushLocation(labels map[string]string, keys []string) (location string, missing []string) {
	var places []string
	for _, key := range keys {
		key = strings.TrimSpace(key)
		name := labels[key]
		if name == "" {
			missing = append(missing, key)
			continue
		}
		places = append(places, domainOf(key)+":"+strings.ReplaceAll(name, ".", "-"))
	}
	return strings.Join(places, "|"), missing
}

// krbdRecorder returns the recorder as the connector takes it.
func (n kubernetesNode) krbdRecorder() krbd.Recorder {
	if n.recorder == nil {
		return nil
	}
	return n.recorder
}

// start starts to write the record at once and from time to time; stop ends that.
func (n kubernetesNode) start(ctx context.Context) (stop func()) {
	if n.recorder == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { n.recorder.Run(ctx) })
	return func() { cancel(); running.Wait() }
}

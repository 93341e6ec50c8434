package doctor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/growvol/growvol/pkg/apierror"
	"github.com/growvol/growvol/pkg/pluginpod"
)

// defaultSyncFrequency is kubelet's default: it calls NodeExpandVolume up to one and a half times
// of it after the volume has grown. This file has the checks of the nodes.
const defaultSyncFrequency = time.Minute

// maxNodesAtOnce bounds the nodes that are read at the same time.
const maxNodesAtOnce = 16

func (d *Doctor) checkNodes(ctx context.Context, in *installation) []Check {
	if in.nodePodsErr != nil || in.node == nil {
		return nil // the check of the registration reports it
	}
	return []Check{d.checkKernels(ctx, in), d.checkRequirements(ctx, in), d.checkSyncFrequency(ctx, in)}
}

// checkKernels checks the kernels of the nodes.
func (d *Doctor) checkKernels(ctx context.Context, in *installation) Check {
	const name = "kernel"
	oldest := version.MustParseGeneric("5.8") // docs/reference.md, "What the node plugin needs"
	list, err := d.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return unread(name, apierror.Of(err, "list", "nodes", ""))
	}
	nodes := nodesOf(in)
	var old []string
	releases := map[string]bool{}
	for i := range list.Items {
		node := &list.Items[i]
		if !slices.Contains(nodes, node.Name) {
			continue
		}
		release := node.Status.NodeInfo.KernelVersion
		releases[release] = true
		if v, err := version.ParseGeneric(release); err != nil || v.LessThan(oldest) {
			old = append(old, fmt.Sprintf("%s (%s)", node.Name, release))
		}
	}
	if len(releases) == 0 {
		return warn(name, "not checked: no node has a pod of the node plugin", "")
	}
	if len(old) > 0 {
		return warn(name, "older than Linux 5.8, or unknown: "+joinNames(old), "upgrade the kernel of these nodes")
	}
	return ok(name, "Linux "+joinNames(slices.Sorted(maps.Keys(releases))))
}

// nodeReadings are the results of reading several nodes: problems by node, and the first error.
type nodeReadings struct {
	mutex    sync.Mutex
	problems map[string]string
	unread   []string
	err      error
	read     int
}

// add records one reading: an error, a problem, or an empty text.
func (r *nodeReadings) add(node, problem string, err error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	switch {
	case err != nil:
		r.unread = append(r.unread, node)
		slices.Sort(r.unread)
		if r.err == nil || r.unread[0] == node {
			r.err = err
		}
	case problem != "":
		r.problems[node] = problem
		r.read++
	default:
		r.read++
	}
}

// readNodes calls read for each node, several at once.
func readNodes(nodes []string, read func(node string) (problem string, err error)) *nodeReadings {
	r := &nodeReadings{problems: map[string]string{}}
	var group errgroup.Group
	group.SetLimit(maxNodesAtOnce)
	for _, node := range nodes {
		group.Go(func() error {
			problem, err := read(node)
			r.add(node, problem, err)
			return nil
		})
	}
	_ = group.Wait() // each error is among the readings
	return r
}

// texts returns the problems as texts, ordered by node.
func (r *nodeReadings) texts() []string {
	var all []string
	for _, node := range slices.Sorted(maps.Keys(r.problems)) {
		all = append(all, node+" ("+r.problems[node]+")")
	}
	return all
}

// unreadText says which nodes were not read, or is empty.
func (r *nodeReadings) unreadText() string {
	if len(r.unread) == 0 {
		return ""
	}
	return fmt.Sprintf("; not read: %s: %v", joinNames(r.unread), r.err)
}

// checkRequirements checks that each node has what the node plugin needs, as the plugin reports in
// its metrics.
func (d *Doctor) checkRequirements(ctx context.Context, in *installation) Check {
	const name = "node requirements"
	port := pluginpod.Port(&in.node.Spec.Template.Spec, "metrics")
	if port == 0 {
		return warn(name, "not checked: the node plugin serves no metrics", "install the chart with metrics.enabled: true")
	}
	podOf := map[string]string{}
	for i := range in.nodePods {
		podOf[in.nodePods[i].Spec.NodeName] = in.nodePods[i].Name
	}
	nodes := nodesOf(in)
	r := readNodes(nodes, func(node string) (string, error) {
		met, err := d.Nodes.ReadRequirements(ctx, in.namespace, podOf[node], port)
		if err != nil {
			return "", err
		}
		var unmet []string
		for _, requirement := range slices.Sorted(maps.Keys(met)) {
			if !met[requirement] {
				unmet = append(unmet, requirement)
			}
		}
		if len(met) == 0 {
			return "reports none yet", nil
		}
		return strings.Join(unmet, ", "), nil
	})
	const page = "read docs/reference.md, \"What the node plugin needs\", and the plugin's log on the node"
	switch {
	case len(r.problems) > 0:
		return fail(name, "not met: "+joinNames(r.texts())+r.unreadText(), page)
	case r.err != nil:
		return warn(name, fmt.Sprintf("%d of %d nodes have what the plugin needs", r.read, len(nodes))+r.unreadText(), "")
	}
	return ok(name, fmt.Sprintf("all %d nodes have what the plugin needs", len(nodes)))
}

// checkSyncFrequency checks how often kubelet compares pods with their volumes.
func (d *Doctor) checkSyncFrequency(ctx context.Context, in *installation) Check {
	const name = "kubelet"
	nodes := nodesOf(in)
	r := readNodes(nodes, func(node string) (string, error) {
		frequency, err := d.Nodes.ReadSyncFrequency(ctx, node)
		if err != nil || frequency <= defaultSyncFrequency {
			return "", err
		}
		return frequency.String(), nil
	})
	switch {
	case len(r.problems) > 0:
		return warn(name, "syncFrequency is above 1m: "+joinNames(r.texts())+
			": a growth takes up to one and a half times as long on the node"+r.unreadText(),
			"set syncFrequency: 1m0s in kubelet's configuration of these nodes")
	case r.err != nil:
		return warn(name, fmt.Sprintf("syncFrequency was read on %d of %d nodes", r.read, len(nodes))+r.unreadText(), "")
	}
	return ok(name, fmt.Sprintf("syncFrequency is at most 1m on all %d nodes", len(nodes)))
}

// Package startuptaint removes the start-up taint from a Kubernetes node. A node that joins
// the cluster with the taint DRIVER/agent-not-ready gets no pods until the CSI driver is
// registered there. So no pod starts on a node that cannot mount its volumes yet, or whose
// attach limit the scheduler does not know yet. The node plugin calls Remove once at start.
package startuptaint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/operation"
)

const (
	// The wait between two attempts doubles from defaultInterval to maxInterval:
	// registration takes seconds, but a cluster without a role for the plugin refuses every
	// attempt.
	defaultInterval = time.Second
	maxInterval     = 15 * time.Second
)

// errUnregistered is the error for an attempt before kubelet has registered the driver.
var errUnregistered = errors.New("kubelet has not registered the driver yet")

// Key returns the key of the taint of a driver. Effect and value of the taint do not matter.
func Key(driver string) string { return driver + "/agent-not-ready" }

// Options configure Remove. API, Node and Driver are required.
type Options struct {
	API      kubeapi.API
	Node     string        // name of the Node object
	Driver   string        // name of the CSI driver
	Log      *slog.Logger  // nil: no log
	Interval time.Duration // first wait between two attempts, doubled up to 15 s; 0: 1 s
}

// Remove waits until kubelet has listed the driver in the node's CSINode, removes the taint
// from the Node, and returns after it has read the Node without the taint. It logs a failure
// and retries until ctx ends; its error then wraps the last failure.
func Remove(ctx context.Context, opts Options) error {
	log := cmp.Or(opts.Log, slog.New(slog.DiscardHandler)).With("node", opts.Node, "taint", Key(opts.Driver))
	lastLogged := ""
	for wait := cmp.Or(opts.Interval, defaultInterval); ; wait = min(2*wait, maxInterval) {
		removed, err := opts.attempt(ctx)
		if err == nil {
			log.InfoContext(ctx, "the node has no start-up taint", "removed", removed)
			return nil
		}
		if lastLogged != err.Error() && ctx.Err() == nil {
			lastLogged = err.Error()
			level := slog.LevelWarn
			if errors.Is(err, errUnregistered) {
				level = slog.LevelInfo // normal at every start
			}
			log.Log(ctx, level, "the start-up taint is not removed yet", "cause", err)
		}
		if ended := operation.Sleep(ctx, wait); ended != nil {
			return fmt.Errorf("%w; the taint %s of the node %s may still be there: %w",
				context.Cause(ctx), Key(opts.Driver), opts.Node, err)
		}
	}
}

// metadata is the part of an object's metadata that this package needs.
type metadata struct {
	UID             string `json:"uid"`
	OwnerReferences []struct {
		Kind string `json:"kind"`
		UID  string `json:"uid"`
	} `json:"ownerReferences"`
}

// isOwnedBy reports whether the Node of this UID owns the object, as kubelet declares it.
func (m metadata) isOwnedBy(uid string) bool {
	for _, owner := range m.OwnerReferences {
		if owner.Kind == "Node" && owner.UID == uid {
			return true
		}
	}
	return false
}

// csiNode is the part of a storage.k8s.io/v1 CSINode that this package needs.
type csiNode struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Drivers []driver `json:"drivers"`
	} `json:"spec"`
}

type driver struct {
	Name string `json:"name"`
}

// node is the part of a v1 Node that this package needs. Taints are not decoded, so that a
// patch keeps fields that this package does not know.
type node struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Taints []json.RawMessage `json:"taints"`
	} `json:"spec"`
}

// attempt removes the taint if the driver is registered. removed reports whether the Node
// had the taint.
func (o Options) attempt(ctx context.Context) (removed bool, err error) {
	c, err := o.API.Open()
	if err != nil {
		return false, err
	}
	defer c.Close()
	var registered csiNode
	if err := c.Get(ctx, "/apis/storage.k8s.io/v1/csinodes/", o.Node, &registered); err != nil {
		return false, err
	}
	if !slices.Contains(registered.Spec.Drivers, driver{Name: o.Driver}) {
		return false, fmt.Errorf("%w: the CSINode does not list %s", errUnregistered, o.Driver)
	}
	var n node
	if err := c.Get(ctx, kubeapi.NodesPath, o.Node, &n); err != nil {
		return false, err
	}
	if !registered.Metadata.isOwnedBy(n.Metadata.UID) {
		return false, errors.New("the CSINode does not belong to this Node, but to an earlier node of that name, or to none")
	}
	remaining, err := withoutKey(n.Spec.Taints, Key(o.Driver))
	if err != nil || len(remaining) == len(n.Spec.Taints) {
		return false, err
	}
	return true, o.replace(ctx, c, n, remaining)
}

// replace replaces the taints of the Node that were read. If the taints or the Node have
// changed since, the tests of the patch fail and it changes nothing.
func (o Options) replace(ctx context.Context, c kubeapi.Connection, n node, taints []json.RawMessage) error {
	type patchOperation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	var after node
	err := c.Patch(ctx, kubeapi.NodesPath, o.Node, kubeapi.JSONPatch, []patchOperation{
		{"test", "/metadata/uid", n.Metadata.UID},
		{"test", "/spec/taints", n.Spec.Taints},
		{"replace", "/spec/taints", taints},
	}, &after)
	if err != nil {
		return err
	}
	left, err := withoutKey(after.Spec.Taints, Key(o.Driver))
	switch {
	case err != nil:
		return err
	case after.Metadata.UID != n.Metadata.UID:
		return errors.New("the API server accepted the patch, but did not answer with this node")
	case len(left) != len(after.Spec.Taints):
		return errors.New("the API server accepted the patch, but the Node is another one, or still has the taint")
	default:
		return nil
	}
}

// withoutKey returns the taints that have another key.
func withoutKey(taints []json.RawMessage, key string) ([]json.RawMessage, error) {
	remaining := make([]json.RawMessage, 0, len(taints)) // not null in JSON
	for _, taint := range taints {
		var has struct {
			Key string `json:"key"`
		}
		if err := json.Unmarshal(taint, &has); err != nil {
			return nil, fmt.Errorf("cannot decode a taint of the Node: %w", err)
		}
		if has.Key != key {
			remaining = append(remaining, taint)
		}
	}
	return remaining, nil
}

// Package startuptaint takes the start-up taint off a Kubernetes node. A node
// that joins with the taint DRIVER/agent-not-ready gets no pods until the CSI
// driver works there, so none is placed where its volumes cannot be mounted, or
// before the scheduler knows how many volumes the node takes.
package startuptaint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

const (
	// interval is the first wait between two looks, and longest the last:
	// registration takes seconds, and a cluster without a role for it must not be
	// asked for ever at that pace.
	interval = time.Second
	longest  = 15 * time.Second
)

// errUnregistered is the cause while kubelet and the plugin are still getting to
// know each other.
var errUnregistered = errors.New("kubelet has not registered the driver yet")

// Key is that of the taint of a driver; its effect and value do not matter.
func Key(driver string) string { return driver + "/agent-not-ready" }

// Options say what to take from whom. API, Node and Driver are required.
type Options struct {
	API      API
	Node     string        // name of the Node object
	Driver   string        // name of the CSI driver
	Log      *slog.Logger  // nil: nothing is logged
	Interval time.Duration // first wait between two looks, doubled up to 15 s; 0: a second
}

// Remove waits until kubelet has listed the driver in the node's CSINode, takes
// the taint off the Node, and returns once the Node was read without it. A
// failure is logged and tried again until ctx ends; the error then has the last
// one.
func Remove(ctx context.Context, opts Options) error {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Interval <= 0 {
		opts.Interval = interval
	}
	log := opts.Log.With("node", opts.Node, "taint", Key(opts.Driver))
	told := ""
	for wait := opts.Interval; ; wait = min(2*wait, longest) {
		removed, err := opts.attempt(ctx)
		if err == nil {
			log.InfoContext(ctx, "the node has no start-up taint", "removed", removed)
			return nil
		}
		if told != err.Error() && ctx.Err() == nil {
			told = err.Error()
			level := slog.LevelWarn
			if errors.Is(err, errUnregistered) {
				level = slog.LevelInfo // as it is at every start
			}
			log.Log(ctx, level, "the start-up taint stays for now", "cause", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w; the taint %s of the node %s may still be there: %w", context.Cause(ctx), Key(opts.Driver), opts.Node, err)
		}
	}
}

// metadata is what is read of that of an object.
type metadata struct {
	UID             string `json:"uid"`
	OwnerReferences []struct {
		Kind string `json:"kind"`
		UID  string `json:"uid"`
	} `json:"ownerReferences"`
}

// ownedBy tells whether the object goes with the Node of this UID, as kubelet
// makes it.
func (m metadata) ownedBy(uid string) bool {
	for _, owner := range m.OwnerReferences {
		if owner.Kind == "Node" && owner.UID == uid {
			return true
		}
	}
	return false
}

// csiNode is what is read of a storage.k8s.io/v1 CSINode.
type csiNode struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Drivers []driver `json:"drivers"`
	} `json:"spec"`
}

type driver struct {
	Name string `json:"name"`
}

// node is what is read of a v1 Node. Taints stay as they came, so that a field
// that is not known here is not lost.
type node struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Taints []json.RawMessage `json:"taints"`
	} `json:"spec"`
}

// attempt looks once, and takes the taint off if it is time.
func (o Options) attempt(ctx context.Context) (removed bool, err error) {
	c, err := o.API.open()
	if err != nil {
		return false, err
	}
	defer c.close()
	var registered csiNode
	if err := c.get(ctx, "/apis/storage.k8s.io/v1/csinodes/", o.Node, &registered); err != nil {
		return false, err
	}
	if !slices.Contains(registered.Spec.Drivers, driver{Name: o.Driver}) {
		return false, fmt.Errorf("%w: the CSINode does not list %s", errUnregistered, o.Driver)
	}
	var n node
	if err := c.get(ctx, "/api/v1/nodes/", o.Node, &n); err != nil {
		return false, err
	}
	if !registered.Metadata.ownedBy(n.Metadata.UID) {
		return false, errors.New("the CSINode is not of this node, but of an earlier node of its name, or of none")
	}
	rest, err := without(n.Spec.Taints, Key(o.Driver))
	if err != nil || len(rest) == len(n.Spec.Taints) {
		return false, err
	}
	return true, o.replace(ctx, c, n, rest)
}

// replace changes the taints of the Node from those that were read. If they, or
// the Node, are others by now, nothing is changed: the tests of the patch fail.
func (o Options) replace(ctx context.Context, c connection, n node, taints []json.RawMessage) error {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	var after node
	err := c.patch(ctx, "/api/v1/nodes/", o.Node, []operation{
		{"test", "/metadata/uid", n.Metadata.UID},
		{"test", "/spec/taints", n.Spec.Taints},
		{"replace", "/spec/taints", taints},
	}, &after)
	if err != nil {
		return err
	}
	left, err := without(after.Spec.Taints, Key(o.Driver))
	switch {
	case err != nil:
		return err
	case after.Metadata.UID != n.Metadata.UID || len(left) != len(after.Spec.Taints):
		return errors.New("the API server took the patch, but the node still has the taint")
	default:
		return nil
	}
}

// without returns the taints that have another key.
func without(taints []json.RawMessage, key string) ([]json.RawMessage, error) {
	rest := make([]json.RawMessage, 0, len(taints)) // not null in JSON
	for _, taint := range taints {
		var has struct {
			Key string `json:"key"`
		}
		if err := json.Unmarshal(taint, &has); err != nil {
			return nil, fmt.Errorf("a taint of the node: %w", err)
		}
		if has.Key != key {
			rest = append(rest, taint)
		}
	}
	return rest, nil
}

// Package claimreadings reads from the nodes how full the filesystems of claims are. Its observers
// decide which claims are needed, and what follows.
//
// targets.go finds the nodes, poller.go reads them, and metrics.go counts. A node without a needed
// claim is not read.
package claimreadings

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/growvol/growvol/pkg/claimcache"
)

// target is a claim whose volume is read.
type target struct {
	claim  types.NamespacedName
	uid    types.UID
	handle string // id of the volume, as the plugin has it
}

// list finds the nodes that are read from now on.
func (p *Poller) list(ctx context.Context, now time.Time) error {
	var claims corev1.PersistentVolumeClaimList
	if err := p.Client.List(ctx, &claims, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	found := map[string]*node{}
	needed := make([]map[types.NamespacedName]types.UID, len(p.Observers))
	for i := range needed {
		needed[i] = map[types.NamespacedName]types.UID{}
	}
	for i := range claims.Items {
		c := &claims.Items[i]
		interval, observers := p.interval(ctx, c)
		if interval == 0 {
			continue
		}
		nodes, handle, err := p.nodesOf(ctx, c)
		if err != nil {
			return err
		}
		name := client.ObjectKeyFromObject(c)
		for _, node := range nodes {
			addTarget(found, node, interval, target{claim: name, uid: c.UID, handle: handle})
			for _, observer := range observers {
				needed[observer][name] = c.UID
			}
		}
	}
	p.replace(found, now)
	for i, observer := range p.Observers {
		observer.Retain(needed[i])
	}
	return nil
}

// interval returns how often the observers need the claim, or 0, and which of them do.
func (p *Poller) interval(
	ctx context.Context, c *corev1.PersistentVolumeClaim,
) (interval time.Duration, observers []int) {
	if c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName == "" || c.DeletionTimestamp != nil {
		return 0, nil
	}
	for i, observer := range p.Observers {
		if needed := observer.Interval(ctx, c); needed > 0 {
			observers = append(observers, i)
			if interval == 0 || needed < interval {
				interval = needed
			}
		}
	}
	return interval, observers
}

// nodesOf returns the nodes with pods that write to the claim, and the handle of its volume. There
// are none if the volume is not of the driver.
func (p *Poller) nodesOf(
	ctx context.Context, c *corev1.PersistentVolumeClaim,
) (nodes []string, handle string, err error) {
	pods, err := claimcache.PodsOf(ctx, p.Client, c)
	if err != nil || len(pods) == 0 {
		return nil, "", err
	}
	pv, err := claimcache.VolumeOf(ctx, p.Client, c, []string{p.Driver})
	if err != nil || pv == nil {
		return nil, "", err
	}
	for i := range pods {
		if name := pods[i].Spec.NodeName; name != "" {
			nodes = append(nodes, name)
		}
	}
	return nodes, claimcache.HandleOf(pv), nil
}

// addTarget adds the claim to the node, unless another pod there has added it.
func addTarget(nodes map[string]*node, name string, interval time.Duration, t target) {
	n := nodes[name]
	if n == nil {
		n = &node{interval: interval}
		nodes[name] = n
	}
	n.interval = min(n.interval, interval)
	if count := len(n.volumes); count == 0 || n.volumes[count-1] != t {
		n.volumes = append(n.volumes, t)
	}
}

// replace stores the nodes of a list. A node that was known keeps its times; it is read at once if
// it has another claim now.
func (p *Poller) replace(found map[string]*node, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, n := range found {
		known := p.nodes[name]
		if known == nil {
			n.due = now
			continue
		}
		n.isReading, n.failing, n.due = known.isReading, known.failing, known.due
		if len(n.volumes) > len(known.volumes) || n.interval < known.interval {
			n.due = now
		}
	}
	p.nodes = found
	p.metrics.setUnread(p.unread(now))
}

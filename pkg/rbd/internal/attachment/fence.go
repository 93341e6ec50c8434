package attachment

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// fenceDuration is longer than any node is lost: a client that comes back after the end of its
	// fence writes what it had kept. removeFences ends it sooner. ceph-csi uses the same.
	fenceDuration = 5 * 365 * 24 * time.Hour
	// defaultWait is Attachment.Wait if that is zero, and pollInterval the time between two readings.
	defaultWait  = 10 * time.Second
	pollInterval = 200 * time.Millisecond
)

// hasFenced reports whether this driver has fenced the client of the node, or was about to.
func (n node) hasFenced(fsid, address string) bool {
	return slices.ContainsFunc(n.fences, func(f noderecord.Fence) bool { return f.FSID == fsid && f.Address == address })
}

// fence fences those clients of the node, unless they are fenced, and returns when the cluster
// lists them and none of them watches the image. It fences only if an administrator has declared
// that the node is shut down: a client that is fenced loses all its images.
func (a Attachment) fence(ctx context.Context, name string, n node, clients []string) error {
	fsid := a.Cluster.FSID()
	listed, err := a.blocklist()
	if err != nil {
		return err
	}
	isFenced := func(address string) bool { return n.hasFenced(fsid, address) && slices.Contains(listed, address) }
	if !slices.ContainsFunc(clients, func(address string) bool { return !isFenced(address) }) {
		return nil
	}
	if err := a.checkDown(name, n, clients); err != nil {
		return err
	}
	if err := a.rememberFences(ctx, n, slices.DeleteFunc(slices.Clone(clients), func(address string) bool {
		// An entry that others have made is not this driver's to remove.
		return n.hasFenced(fsid, address) || slices.Contains(listed, address)
	})); err != nil {
		return err
	}
	for _, address := range clients {
		a.Log.WarnContext(ctx, "fencing a client of a lost node: it loses all its images",
			"node", name, "client", address, "images", strings.Join(n.record.Names(fsid, address), ", "))
		if slices.Contains(listed, address) {
			a.Log.WarnContext(ctx, "the client was fenced already, by others than this driver: Ceph keeps the end of that "+
				"entry (an hour after its beginning, by default)", "node", name, "client", address)
		}
		if err := a.Cluster.Fence(address, fenceDuration); err != nil {
			return fmt.Errorf("cannot fence the client %s of node %s: %w", address, name, err)
		}
	}
	return a.awaitFenced(ctx, name, clients)
}

// checkDown checks that the node may be fenced.
func (a Attachment) checkDown(name string, n node, clients []string) error {
	switch {
	case !n.IsOutOfService():
		return volume.Errorf(volume.KindPrecondition, "node %s still has image %s mapped (client %s)",
			name, a.Name, strings.Join(clients, ", ")).WithRemedy(stopRemedy(name))
	case n.IsReady():
		return volume.Errorf(volume.KindUnavailable, "node %s still has image %s mapped (client %s) and has the taint %s, "+
			"but is ready: it is not fenced while kubelet works", name, a.Name, strings.Join(clients, ", "), kubeapi.OutOfServiceTaint).
			WithRemedy(fmt.Sprintf("no action needed if the node has just been switched off: Kubernetes retries this automatically; "+
				"if the node works: kubectl taint nodes %s %s-", name, kubeapi.OutOfServiceTaint))
	}
	return nil
}

// rememberFences writes on the Node which clients are about to be fenced, so that they are known
// as this driver's whatever happens next.
func (a Attachment) rememberFences(ctx context.Context, n node, clients []string) error {
	if len(clients) == 0 {
		return nil
	}
	fences := slices.Clone(n.fences)
	for _, address := range clients {
		fences = append(fences, noderecord.Fence{
			FSID: a.Cluster.FSID(), Address: address, Since: time.Now().UTC().Format(time.RFC3339),
		})
	}
	return a.writeFences(ctx, n, fences)
}

func (a Attachment) writeFences(ctx context.Context, n node, fences []noderecord.Fence) error {
	err := a.Nodes.AnnotateUnchanged(ctx, n.Node, noderecord.FencedAnnotation, noderecord.FormatFences(fences))
	if err != nil {
		return nodeError("cannot write to the Node %s which of its clients are fenced: %w", n.Metadata.Name, err)
	}
	return nil
}

func (a Attachment) blocklist() ([]string, error) {
	listed, err := a.Cluster.Blocklist()
	if err != nil {
		return nil, fmt.Errorf("cannot list the fenced clients: %w", err)
	}
	return listed, nil
}

// awaitFenced waits until the cluster lists the clients as fenced and the image has no watch of
// theirs: its OSD then refuses their writes.
func (a Attachment) awaitFenced(ctx context.Context, name string, clients []string) error {
	wait := a.Wait
	if wait == 0 {
		wait = defaultWait
	}
	deadline := time.Now().Add(wait)
	for {
		found, err := a.whatIsNotFenced(ctx, clients)
		if err != nil || found == "" {
			return err
		}
		if time.Now().After(deadline) {
			return volume.Errorf(volume.KindUnavailable, "the client of node %s was fenced %s ago, but %s", name, wait, found).
				WithRemedy(retryRemedy)
		}
		if err := operation.Sleep(ctx, min(pollInterval, wait)); err != nil {
			return err
		}
	}
}

// whatIsNotFenced returns what contradicts that the clients are fenced; empty: nothing.
func (a Attachment) whatIsNotFenced(ctx context.Context, clients []string) (string, error) {
	listed, err := a.blocklist()
	if err != nil {
		return "", err
	}
	for _, address := range clients {
		if !slices.Contains(listed, address) {
			return "the cluster does not list " + address + " as fenced", nil
		}
	}
	s, err := a.read(ctx)
	if volume.IsKind(err, volume.KindNotFound) {
		return "", nil
	}
	isClient := func(w ceph.Watcher) bool { return slices.Contains(clients, w.Address) }
	if i := slices.IndexFunc(s.watchers, isClient); err == nil && i >= 0 {
		return "image " + a.Name + " still has its watcher " + s.watchers[i].Address, nil
	}
	return "", err
}

// removeFences removes the fences of clients of a node that is back and has unmapped what they had.
// A new client of the node has another address, so the image can be attached even if that fails.
// Kind Precondition: the node still has images mapped through a fenced client, which a new mapping
// would share.
func (a Attachment) removeFences(ctx context.Context, name string, n node) error {
	fsid := a.Cluster.FSID()
	var own []noderecord.Fence
	for _, f := range n.fences {
		if f.FSID != fsid {
			continue
		}
		own = append(own, f)
		if !n.isKnown {
			return volume.Errorf(volume.KindUnavailable,
				"node %s was fenced, and its plugin has not written since what is mapped", name).WithRemedy(retryRemedy)
		}
		if names := n.record.Names(fsid, f.Address); len(names) > 0 {
			return volume.Errorf(volume.KindPrecondition, "node %s was fenced at %s and still has images mapped through the "+
				"fenced client %s: %s", name, f.Since, f.Address, strings.Join(names, ", ")).
				WithRemedy(fmt.Sprintf("delete the pods on node %s that use these volumes, or restart the node", name))
		}
	}
	if len(own) == 0 {
		return nil
	}
	if err := a.unfence(ctx, n, own); err != nil {
		a.Log.WarnContext(ctx, "cannot remove the fence of a client that no longer exists: it is of no effect, "+
			"and ends by itself", "node", name, "error", err)
	}
	return nil
}

// unfence removes fences of this driver, and their record after reading the list without them.
func (a Attachment) unfence(ctx context.Context, n node, fences []noderecord.Fence) error {
	for _, f := range fences {
		if err := a.Cluster.Unfence(f.Address); err != nil {
			return fmt.Errorf("cannot remove the fence of %s: %w", f.Address, err)
		}
	}
	listed, err := a.blocklist()
	if err != nil {
		return err
	}
	for _, f := range fences {
		if slices.Contains(listed, f.Address) {
			return volume.Errorf(volume.KindUnavailable, "the cluster still lists %s as fenced after the removal", f.Address)
		}
	}
	remaining := slices.DeleteFunc(slices.Clone(n.fences), func(f noderecord.Fence) bool { return slices.Contains(fences, f) })
	if err := a.writeFences(ctx, n, remaining); err != nil {
		return err
	}
	a.Log.InfoContext(ctx, "removed the fences of a node that is back", "node", n.Metadata.Name, "clients", len(fences))
	return nil
}

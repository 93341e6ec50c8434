package attachment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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
	// defaultWait is Attachment.Wait if that is zero, and pollInterval the time between two
	// readings.
	defaultWait  = 10 * time.Second
	pollInterval = 200 * time.Millisecond
)

// hasFenced reports whether this driver has fenced the client of the node, or was about to.
func (n node) hasFenced(fsid, address string) bool {
	return slices.ContainsFunc(n.fences, func(f noderecord.Fence) bool { return f.FSID == fsid && f.Address == address })
}

// isLasting reports whether a fence lasts about as long as this driver's. The end comes from the
// monitors' clocks, which may differ from this one.
func isLasting(end time.Time) bool { return time.Until(end) > fenceDuration/2 }

// isOwn reports whether the fence that the cluster lists with that end is the one that this driver
// has made: another driver or an administrator may have removed it and made another.
func isOwn(f noderecord.Fence, end time.Time) bool {
	since, err := time.Parse(time.RFC3339, f.Since)
	return err == nil && end.Sub(since.Add(fenceDuration)).Abs() < 24*time.Hour
}

// fence fences those clients of the node, unless they are fenced for long enough, and returns when
// no storage daemon serves them: see awaitFenced. It fences only if an administrator has declared
// that the node is shut down: a client that is fenced loses all its images.
func (a Attachment) fence(ctx context.Context, name string, n node, clients []string) error {
	listed, err := a.blocklist()
	if err != nil {
		return err
	}
	isFenced := func(address string) bool { return isLasting(listed[address]) }
	isForeign := func(address string) bool { return !isFenced(address) || !n.hasFenced(a.Cluster.FSID(), address) }
	if slices.ContainsFunc(clients, isForeign) {
		if err := a.checkDown(name, n, clients); err != nil {
			return err
		}
	}
	if due := slices.DeleteFunc(slices.Clone(clients), isFenced); len(due) > 0 {
		if err := a.addFences(ctx, name, n, listed, due); err != nil {
			return err
		}
	}
	return a.awaitFenced(ctx, name, clients)
}

// addFences fences clients of a node that is declared down, and remembers on the Node, if there is
// one, that it is about to. Ceph does not change the end of a fence, so a shorter one of others is
// replaced: it becomes this driver's. Kind Precondition: checkReplaceable.
func (a Attachment) addFences(
	ctx context.Context, name string, n node, listed map[string]time.Time, clients []string,
) error {
	for _, address := range clients {
		if end, isListed := listed[address]; isListed {
			if err := a.checkReplaceable(ctx, name, n, address, end); err != nil {
				return err
			}
		}
	}
	if err := a.rememberFences(ctx, n, clients); err != nil {
		return err
	}
	for _, address := range clients {
		a.Log.WarnContext(ctx, "fencing a client of a lost node: it loses all its images", "image", a.Name,
			"node", name, "client", address, "images", strings.Join(n.record.Names(a.Cluster.FSID(), address), ", "))
		if end, isListed := listed[address]; isListed {
			a.Log.WarnContext(ctx, "the client was fenced already, by others than this driver: replacing their fence, "+
				"which ends sooner", "node", name, "client", address, "end", end)
			if err := a.dropShortFence(name, address); err != nil {
				return err
			}
		}
		if err := a.Cluster.Fence(address, fenceDuration); err != nil {
			return fmt.Errorf("cannot fence the client %s of node %s: %w", address, name, err)
		}
	}
	return nil
}

// dropShortFence removes the fence of a client unless another call has replaced it since it was
// read: that call may have given the images of the client to others already.
func (a Attachment) dropShortFence(name, address string) error {
	listed, err := a.blocklist()
	if err != nil || isLasting(listed[address]) {
		return err
	}
	if err := a.Cluster.Unfence(address); err != nil {
		return fmt.Errorf("cannot replace the fence of the client %s of node %s: %w", address, name, err)
	}
	return nil
}

// checkDown checks that the node may be fenced.
func (a Attachment) checkDown(name string, n node, clients []string) error {
	switch {
	case !n.IsOutOfService():
		return volume.Errorf(volume.KindPrecondition, "node %s still has image %s mapped (client %s)",
			name, a.Name, strings.Join(clients, ", ")).WithRemedy(stopRemedy(name))
	case n.IsReady():
		const taint = kubeapi.OutOfServiceTaint
		return volume.Errorf(volume.KindUnavailable, "node %s still has image %s mapped (client %s) and has the taint %s, "+
			"but is ready: it is not fenced while kubelet works", name, a.Name, strings.Join(clients, ", "), taint).
			WithRemedy(fmt.Sprintf("no action needed if the node has just been switched off: "+
				"Kubernetes retries this automatically; if the node works: kubectl taint nodes %s %s-", name, taint))
	}
	return nil
}

// rememberFences writes on the Node which clients are about to be fenced, so that they are known
// as this driver's whatever happens next. A Node that does not exist remembers nothing.
func (a Attachment) rememberFences(ctx context.Context, n node, clients []string) error {
	if n.isAbsent {
		return nil
	}
	fsid := a.Cluster.FSID()
	fences := slices.DeleteFunc(slices.Clone(n.fences), func(f noderecord.Fence) bool {
		return f.FSID == fsid && slices.Contains(clients, f.Address) // of an earlier attempt
	})
	for _, address := range clients {
		fences = append(fences, noderecord.Fence{
			FSID: fsid, Address: address, Since: time.Now().UTC().Format(time.RFC3339),
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

// blocklist returns the end of the fence of each fenced client.
func (a Attachment) blocklist() (map[string]time.Time, error) {
	listed, err := a.Cluster.Blocklist()
	if err != nil {
		return nil, fmt.Errorf("cannot list the fenced clients: %w", err)
	}
	return listed, nil
}

// awaitFenced returns when the cluster lists the clients as fenced, the image has no watch of
// theirs, and no storage daemon that has data of the image serves them. Kind Unavailable: that is
// not so after a wait.
func (a Attachment) awaitFenced(ctx context.Context, name string, clients []string) error {
	wait := a.Wait
	if wait == 0 {
		wait = defaultWait
	}
	deadline := time.Now().Add(wait)
	for {
		found, dataPool, err := a.whatIsNotFenced(ctx, clients)
		if err != nil {
			return err
		}
		if found == "" {
			return a.awaitMap(name, clients, dataPool)
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

// whatIsNotFenced returns what contradicts that the clients are fenced; empty: nothing. It also
// returns the data pool of the image, which is empty if that is the pool of the image.
func (a Attachment) whatIsNotFenced(ctx context.Context, clients []string) (found, dataPool string, err error) {
	listed, err := a.blocklist()
	if err != nil {
		return "", "", err
	}
	for _, address := range clients {
		end, isListed := listed[address]
		switch {
		case !isListed:
			return "the cluster does not list " + address + " as fenced", "", nil
		case !isLasting(end):
			return "the fence of " + address + " ends at " + end.UTC().Format(time.RFC3339), "", nil
		}
	}
	s, err := a.read(ctx)
	if volume.IsKind(err, volume.KindNotFound) {
		return "", "", nil
	}
	isClient := func(w ceph.Watcher) bool { return slices.Contains(clients, w.Address) }
	if i := slices.IndexFunc(s.watchers, isClient); err == nil && i >= 0 {
		return "image " + a.Name + " still has its watcher " + s.watchers[i].Address, "", nil
	}
	return "", s.info.DataPool, err
}

// awaitMap returns when no placement group of the pools of the image serves the clients, which the
// cluster lists as fenced. Kind Unavailable: a placement group has not answered.
func (a Attachment) awaitMap(name string, clients []string, dataPool string) error {
	err := ceph.AwaitMap(a.Cluster, a.Pool, a.Namespace, dataPool)
	if errors.Is(err, unix.ETIMEDOUT) {
		return volume.Errorf(volume.KindUnavailable, "the client %s of node %s is on the blocklist, but nothing proves that "+
			"all storage daemons know it and refuse its writes to image %s: %w", strings.Join(clients, ", "), name, a.Name, err).
			WithRemedy(retryRemedy + "; if it lasts, start the stopped OSDs: ceph health detail; ceph osd tree")
	}
	if err != nil {
		return fmt.Errorf("cannot verify that all storage daemons refuse the client %s of node %s: %w",
			strings.Join(clients, ", "), name, err)
	}
	return nil
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

// unfence removes fences of this driver, and their record after reading the list without them. A
// fence that others have made since stays, and its record goes.
func (a Attachment) unfence(ctx context.Context, n node, fences []noderecord.Fence) error {
	before, err := a.blocklist()
	if err != nil {
		return err
	}
	foreign := func(f noderecord.Fence) bool {
		end, isListed := before[f.Address]
		return isListed && !isOwn(f, end)
	}
	for _, f := range fences {
		if foreign(f) {
			a.Log.WarnContext(ctx, "the fence of a client that no longer exists stays: others than this driver have made it",
				"node", n.Metadata.Name, "client", f.Address, "end", before[f.Address])
			continue
		}
		if err := a.Cluster.Unfence(f.Address); err != nil {
			return fmt.Errorf("cannot remove the fence of %s: %w", f.Address, err)
		}
	}
	after, err := a.blocklist()
	if err != nil {
		return err
	}
	for _, f := range fences {
		if _, isListed := after[f.Address]; isListed && !foreign(f) {
			return volume.Errorf(volume.KindUnavailable, "the cluster still lists %s as fenced after the removal", f.Address)
		}
	}
	remaining := slices.DeleteFunc(slices.Clone(n.fences), func(f noderecord.Fence) bool {
		return slices.Contains(fences, f)
	})
	if err := a.writeFences(ctx, n, remaining); err != nil {
		return err
	}
	a.Log.InfoContext(ctx, "removed the fences of a node that is back", "node", n.Metadata.Name, "clients", len(fences))
	return nil
}

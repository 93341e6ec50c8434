package attachment

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// Detach removes the record of the attachment to the node, or to all nodes if name is empty, when
// the node can no longer write to the image: it has unmapped it, or its client is fenced. It
// succeeds for an image or attachment that does not exist. Kinds: Precondition (the node has the
// image mapped, or nothing proves that it has not), Unavailable (also without Kubernetes, while the
// image is in use), Denied.
func (a Attachment) Detach(ctx context.Context, name string) error {
	s, err := a.read(ctx)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	names := []string{name}
	if name == "" {
		names = slices.Sorted(maps.Keys(s.attached))
	}
	for _, name := range names {
		if err := a.detachNode(ctx, s, name); err != nil {
			return err
		}
		delete(s.attached, name)
	}
	return nil
}

func (a Attachment) detachNode(ctx context.Context, s state, name string) error {
	use, isAttached := s.attached[name]
	if isAttached && use.ReadOnly {
		return a.forget(ctx, s, name) // a mapping that cannot write harms nobody
	}
	if a.Nodes == nil {
		return a.detachWithoutKubernetes(ctx, s, name)
	}
	n, err := a.readNode(ctx, name)
	if err != nil {
		return err
	}
	if !n.isKnown {
		return a.detachUnknown(ctx, s, name, n)
	}
	fsid := a.Cluster.FSID()
	if clients := n.record.MappedBy(fsid, a.image(s)); len(clients) > 0 {
		if err := a.fence(ctx, name, n, clients); err != nil {
			return err
		}
		return a.forget(ctx, s, name)
	}
	for _, w := range s.watchers {
		if n.record.Has(fsid, w.Address) && !n.hasFenced(fsid, w.Address) {
			return volume.Errorf(volume.KindUnavailable, "node %s reports that it has unmapped image %s, "+
				"but its client %s still watches it", name, a.Name, w.Address).WithRemedy(retryRemedy)
		}
	}
	return a.forget(ctx, s, name)
}

// detachUnknown detaches from a node of which no record says what it has mapped: Kubernetes has no
// such Node any more, or its plugin cannot write to it.
func (a Attachment) detachUnknown(ctx context.Context, s state, name string, n node) error {
	if _, ok := s.attached[name]; !ok {
		return nil // Attach checks the watchers before another node gets the image
	}
	watchers, err := a.unknownClients(ctx, s, name, s.watchers)
	if err != nil {
		return err
	}
	why := "its plugin has not written the annotation of the mapped images"
	if n.isAbsent {
		why = "Kubernetes has no such Node"
	}
	isDeclaredDown := n.isAbsent || n.IsOutOfService()
	switch {
	case len(watchers) > 0:
		return volume.Errorf(volume.KindPrecondition, "image %s is in use by %s, which may be node %s: %s",
			a.Name, addresses(watchers), name, why).
			WithRemedy("switch off the machine of the node; Ceph forgets its client 30 s later, and Kubernetes retries")
	case !isDeclaredDown && n.IsReady():
		return a.forget(ctx, s, name) // kubelet works, and has unmapped what it detaches
	case isDeclaredDown && slices.Contains(s.info.Features, "exclusive-lock"):
		if err := a.fenceHolder(ctx, s, name, n); err != nil {
			return err
		}
		return a.forget(ctx, s, name)
	case !isDeclaredDown:
		return volume.Errorf(volume.KindPrecondition, "node %s is not ready and may have image %s mapped: %s",
			name, a.Name, why).WithRemedy(stopRemedy(name))
	}
	return volume.Errorf(volume.KindPrecondition, "node %s may still write to image %s, which has no exclusive lock: %s, "+
		"so nothing tells which client to fence", name, a.Name, why).
		WithRemedy(fmt.Sprintf("make sure that the machine of the node is switched off or deleted, then: "+
			"rbd image-meta remove %s %s%s", a.Name, keyPrefix, name))
}

// fenceHolder fences the client that holds the exclusive lock of an image without watching it: it
// is the node that is declared down. The kernel of the next node would do that; but if the
// controller needs the lock first, as for a snapshot, librbd breaks it and fences nobody.
func (a Attachment) fenceHolder(ctx context.Context, s state, name string, n node) error {
	im, err := a.Open()
	if err != nil {
		return err
	}
	holder, isHeld, err := im.LockHolder()
	if err = volume.Join(err, im.Close()); err != nil {
		return fmt.Errorf("cannot read the lock of image %s: %w", a.Name, err)
	}
	if !isHeld {
		return nil
	}
	clients, err := a.unknownClients(ctx, s, name, []ceph.Watcher{holder})
	if err != nil || len(clients) == 0 {
		return err
	}
	listed, err := a.blocklist()
	if err != nil {
		return err
	}
	address := []string{holder.Address}
	if !isLasting(listed[holder.Address]) {
		if err := a.addFences(ctx, name, n, listed, address); err != nil {
			return err
		}
	}
	return a.awaitFenced(ctx, name, address)
}

// unknownClients returns those of the clients that are none of the other nodes to which the image
// is attached.
func (a Attachment) unknownClients(
	ctx context.Context, s state, name string, clients []ceph.Watcher,
) ([]ceph.Watcher, error) {
	unknown := slices.Clone(clients)
	for _, other := range s.otherNodes(name) {
		n, err := a.readNode(ctx, other)
		if err != nil {
			return nil, err
		}
		unknown = slices.DeleteFunc(unknown, func(w ceph.Watcher) bool {
			return n.record.Has(a.Cluster.FSID(), w.Address)
		})
	}
	return unknown, nil
}

// detachWithoutKubernetes relies on the watchers: a node that has the image mapped for writing is
// one of them, but they do not tell which.
func (a Attachment) detachWithoutKubernetes(ctx context.Context, s state, name string) error {
	if _, ok := s.attached[name]; !ok {
		return nil
	}
	others := s.otherNodes(name)
	if len(s.watchers) > len(others) {
		return volume.Errorf(volume.KindUnavailable, "image %s is in use by %s, and is attached to node %s",
			a.Name, addresses(s.watchers), strings.Join(append(others, name), ", ")).
			WithRemedy("unstage the volume on the node; if the machine is lost, switch it off: Ceph forgets it 30 s later; " +
				retryRemedy)
	}
	return a.forget(ctx, s, name)
}

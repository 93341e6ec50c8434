package attachment

import (
	"context"
	"fmt"
	"slices"

	"github.com/growvol/growvol/pkg/kubeapi"
	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/volume"
)

// Attach records that the node uses the image, and returns the image, after checking that no node
// uses it that may not share it. Kinds: NotFound (image or node), AlreadyExists (attached to this
// node in another way), Precondition (attached elsewhere, mapped elsewhere, or the node is shut
// down or fenced), Unavailable, Denied.
func (a Attachment) Attach(ctx context.Context, name string, access volume.Access) (ceph.ImageInfo, error) {
	s, err := a.read(ctx)
	if err != nil {
		return ceph.ImageInfo{}, err
	}
	use := newUse(s.info.ID, access)
	n := node{}
	if a.Nodes != nil {
		if n, err = a.readNode(ctx, name); err != nil {
			return ceph.ImageInfo{}, err
		}
		if err := a.checkNode(ctx, name, n); err != nil {
			return ceph.ImageInfo{}, err
		}
	}
	if err := a.checkUses(s, name, use); err != nil {
		return ceph.ImageInfo{}, err
	}
	if err := a.checkWatchers(ctx, s, name, use, n); err != nil {
		return ceph.ImageInfo{}, err
	}
	return s.info, a.remember(ctx, s, name, use)
}

// checkNode checks that the node exists and can map images.
func (a Attachment) checkNode(ctx context.Context, name string, n node) error {
	switch {
	case n.isAbsent:
		return volume.Errorf(volume.KindNotFound, "Kubernetes has no Node %s", name).
			WithRemedy("run the node plugin with --node-id set to the name of its Node, as the chart does")
	case n.IsOutOfService():
		const taint = kubeapi.OutOfServiceTaint
		return volume.Errorf(volume.KindPrecondition, "the Node %s has the taint %s", name, taint).
			WithRemedy(fmt.Sprintf("when the node has started again: kubectl taint nodes %s %s-", name, taint))
	}
	return a.removeFences(ctx, name, n)
}

// checkUses checks the recorded attachments.
func (a Attachment) checkUses(s state, name string, use Use) error {
	if existing, ok := s.attached[name]; ok && existing != use {
		return volume.Errorf(volume.KindAlreadyExists,
			"the volume is attached to node %s in another way (%s) than the requested one (%s)", name, existing, use)
	}
	for _, other := range s.otherNodes(name) {
		if existing := s.attached[other]; !existing.Shared || !use.Shared {
			return volume.Errorf(volume.KindPrecondition,
				"the volume is attached to node %s (%s) and cannot be attached to node %s (%s) at the same time",
				other, existing, name, use).WithRemedy(stopRemedy(other))
		}
	}
	return nil
}

// stopRemedy says how an image comes free that a node uses.
func stopRemedy(name string) string {
	return fmt.Sprintf("delete the pods that use the volume on node %s; if that node is lost, make sure that the machine "+
		"is switched off, then: kubectl taint nodes %s %s=nodeshutdown:NoExecute", name, name, kubeapi.OutOfServiceTaint)
}

// checkWatchers checks that no other node has the image mapped for writing.
func (a Attachment) checkWatchers(ctx context.Context, s state, name string, use Use, n node) error {
	if use.Shared {
		return nil
	}
	if _, isRepeated := s.attached[name]; isRepeated && !n.isKnown {
		return nil // the watcher can be this node
	}
	foreign := slices.DeleteFunc(slices.Clone(s.watchers), func(w ceph.Watcher) bool {
		return n.record.Has(a.Cluster.FSID(), w.Address)
	})
	if len(foreign) == 0 {
		return nil
	}
	a.Log.WarnContext(ctx, "an image is in use by a client that is not the requested node",
		"image", a.Name, "node", name, "watchers", addresses(foreign))
	return volume.Errorf(volume.KindPrecondition, "image %s is in use by %s, which is not node %s",
		a.Name, addresses(foreign), name).
		WithRemedy(fmt.Sprintf("stop that client: rbd status %s shows it, and `rbd device list` on its machine; "+
			"Ceph forgets a client that is switched off after 30 s", a.Name))
}

// remember writes the attachment and reads it back. Another controller may have attached the image
// to another node at the same time: each writes first and reads then, so at least one of them sees
// both, and gives way.
func (a Attachment) remember(ctx context.Context, s state, name string, use Use) error {
	if s.attached[name] == use {
		return nil
	}
	text, err := use.encode()
	if err != nil {
		return err
	}
	if err := a.Pool.SetMetadata(s.info.ID, keyPrefix+name, text); err != nil {
		return fmt.Errorf("cannot record the attachment of image %s: %w", a.Name, err)
	}
	if s.attached, err = a.readUses(s.info.ID); err != nil {
		return err
	}
	if s.attached[name] != use {
		return volume.Errorf(volume.KindInternal, "the attachment of image %s to node %s was recorded, but reads as %s",
			a.Name, name, s.attached[name])
	}
	if err := a.checkUses(s, name, use); err != nil {
		return volume.Join(err, a.forget(ctx, s, name))
	}
	return nil
}

// forget removes the record of an attachment, and returns after reading the metadata without it.
func (a Attachment) forget(ctx context.Context, s state, name string) error {
	if _, ok := s.attached[name]; !ok {
		return nil
	}
	if err := a.Pool.RemoveMetadata(s.info.ID, keyPrefix+name); err != nil {
		return fmt.Errorf("cannot remove the record of the attachment of image %s: %w", a.Name, err)
	}
	after, err := a.readUses(s.info.ID)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil
	}
	if _, ok := after[name]; err == nil && ok {
		return volume.Errorf(volume.KindInternal, "image %s still has the metadata %s after their removal",
			a.Name, keyPrefix+name)
	}
	if err == nil {
		a.Log.DebugContext(ctx, "attachment removed", "image", a.Name, "node", name, "remaining", s.otherNodes(name))
	}
	return err
}

package attachment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/ceph"
	"github.com/growvol/growvol/pkg/rbd/noderecord"
	"github.com/growvol/growvol/pkg/volume"
)

// This file decides whether a fence that others have made may be replaced by a longer one. Ceph can
// only remove the entry and add another, so the client is not fenced for a moment.

// checkReplaceable checks that the client, which is not fenced for a moment when its fence is
// replaced, could only write to images that nobody else uses: all images that the Node's record
// names. Kind Precondition: one of them is in use by others, or the record does not tell.
func (a Attachment) checkReplaceable(ctx context.Context, name string, n node, address string, end time.Time) error {
	images := n.record.Images(a.Cluster.FSID(), address)
	reason := ""
	if len(images) == 0 {
		reason = "the node's record does not tell which images the client has"
	}
	for _, image := range images {
		if reason != "" {
			break
		}
		user, err := a.otherUser(ctx, image, name, address)
		if err != nil {
			return err
		}
		if user != "" {
			reason = fmt.Sprintf("image %s, which the client has mapped too, is in use by %s", image, user)
		}
	}
	if reason == "" {
		return nil
	}
	return volume.Errorf(volume.KindPrecondition, "the client %s of node %s was fenced by others than this driver, "+
		"until %s: this is too short, and a longer fence would need a moment without any: %s",
		address, name, end.UTC().Format(time.RFC3339), reason).
		WithRemedy(fmt.Sprintf("make sure that the machine of the node is switched off, then: ceph osd blocklist rm %s; "+
			"Kubernetes then retries, and the client is fenced for long", address))
}

// otherUser returns who uses an image besides the client of the node: another node that has it
// attached, or a watcher; empty: nobody. A snapshot cannot be written to.
func (a Attachment) otherUser(ctx context.Context, image noderecord.Image, name, address string) (string, error) {
	if image.Snapshot != "" {
		return "", nil
	}
	poolName, err := a.Cluster.PoolName(image.PoolID)
	if err == nil {
		a.Pool, err = a.Cluster.Pool(poolName, image.Namespace)
	}
	a.Name, a.Namespace = image.String(), image.Namespace
	a.Open = func() (ceph.Image, error) { return a.Pool.OpenID(image.ID, true) }
	var s state
	if err == nil {
		s, err = a.read(ctx)
	}
	if errors.Is(err, unix.ENOENT) {
		return "", nil // deleted meanwhile
	}
	if err != nil {
		return "", fmt.Errorf("cannot read who uses image %s: %w", image, err)
	}
	if others := s.otherNodes(name); len(others) > 0 {
		return "node " + others[0], nil
	}
	isOther := func(w ceph.Watcher) bool { return w.Address != address }
	if i := slices.IndexFunc(s.watchers, isOther); i >= 0 {
		return s.watchers[i].Address, nil
	}
	return "", nil
}

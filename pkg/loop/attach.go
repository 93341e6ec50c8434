package loop

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/growvol/growvol/pkg/volume"
)

// Attach implements volume.Attacher: it records that the node may connect the
// volume.
func (b *Backend) Attach(ctx context.Context, req volume.AttachRequest) (map[string]string, error) {
	published, err := b.attach(ctx, req)
	return published, volume.Wrap(err, "attach", req.ID)
}

func (b *Backend) attach(ctx context.Context, req volume.AttachRequest) (map[string]string, error) {
	o, unlock, err := b.store.lock(ctx, volumes, req.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if req.Node != b.opts.Node {
		return nil, volume.Errorf(volume.KindNotFound, "the loop backend knows no node %q; its volumes are on %s", req.Node, b.opts.Node)
	}
	if req.Access.Mode.IsMultiNode() {
		return nil, volume.Errorf(volume.KindInvalid, "the access mode %s needs several nodes; a volume of this backend is on one", req.Access.Mode).
			WithRemedy("use the access mode ReadWriteOnce or ReadWriteOncePod")
	}
	want := attachment{Node: req.Node, Mode: req.Access.Mode, ReadOnly: req.ReadOnly}
	switch {
	case o.attachment == nil:
		if err := b.store.save(filepath.Join(b.store.path(volumes, o.id), attachFile), want); err != nil {
			return nil, fmt.Errorf("record the attachment: %w", err)
		}
	case o.attachment.Node != want.Node:
		return nil, volume.Errorf(volume.KindPrecondition, "the volume is attached to node %s", o.attachment.Node).
			WithRemedy("detach it there first")
	case *o.attachment != want:
		return nil, volume.Errorf(volume.KindAlreadyExists, "the volume is attached to node %s as %s, read-only %t; not as %s, read-only %t",
			want.Node, o.attachment.Mode, o.attachment.ReadOnly, want.Mode, want.ReadOnly).
			WithRemedy("detach it first")
	}
	return map[string]string{PublishSize: strconv.FormatInt(o.size.Bytes(), 10)}, nil
}

// Detach implements volume.Attacher. A volume that a loop device still has is
// not detached (kind Precondition): the node can reach it.
func (b *Backend) Detach(ctx context.Context, id, node string) error {
	return volume.Wrap(b.detach(ctx, id, node), "detach", id)
}

func (b *Backend) detach(ctx context.Context, id, node string) error {
	o, unlock, err := b.store.lock(ctx, volumes, id)
	if err != nil {
		if missing(err) {
			return nil
		}
		return err
	}
	defer unlock()
	if a := o.attachment; a != nil {
		if node != "" && node != a.Node {
			return nil
		}
		if err := b.unbound(o); err != nil {
			return err
		}
	}
	// Also if it is not attached: an interrupted call may have left something.
	return b.store.detach(id)
}

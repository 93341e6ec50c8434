package loop

import (
	"context"
	"fmt"
	"strconv"

	"github.com/growvol/growvol/pkg/loop/internal/volumedir"
	"github.com/growvol/growvol/pkg/loopcsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Attach implements volume.Attacher: it records that the node may connect the volume.
func (b *Backend) Attach(ctx context.Context, req volume.AttachRequest) (published map[string]string, err error) {
	defer func() { err = volume.Wrap(err, "attach", req.VolumeID) }()
	o, unlock, err := b.store.Lock(ctx, volumedir.Volumes, req.VolumeID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if req.Node != b.opts.Node {
		return nil, volume.Errorf(volume.KindNotFound,
			"the loop backend has no node %q: its volumes are on node %s", req.Node, b.opts.Node)
	}
	if req.Access.Mode.IsMultiNode() {
		return nil, volume.Errorf(volume.KindInvalid,
			"the access mode %s needs several nodes, but a volume of the loop backend is on one",
			req.Access.Mode).
			WithRemedy("use the access mode ReadWriteOnce or ReadWriteOncePod in the claim")
	}
	want := volumedir.Attachment{Node: req.Node, Mode: req.Access.Mode, ReadOnly: req.ReadOnly}
	switch {
	case o.Attachment == nil:
		if err := b.store.saveJSON(b.store.attachmentPath(o.ID), want); err != nil {
			return nil, fmt.Errorf("cannot record the attachment: %w", err)
		}
	case o.Attachment.Node != want.Node:
		return nil, volume.Errorf(volume.KindPrecondition, "the volume is attached to node %s", o.Attachment.Node).
			WithRemedy("delete the pods that use the volume there, and wait until it is detached")
	case *o.Attachment != want:
		return nil, volume.Errorf(volume.KindAlreadyExists,
			"the volume is attached to node %s as %s, read-only=%t, but the request is for %s, read-only=%t",
			want.Node, o.Attachment.Mode, o.Attachment.ReadOnly, want.Mode, want.ReadOnly).
			WithRemedy("delete the pods that use the volume there, and wait until it is detached")
	}
	return map[string]string{loopcsi.ContextSize: strconv.FormatInt(o.Size.Bytes(), 10)}, nil
}

// Detach implements volume.Attacher. The error is of kind Precondition while a loop device
// still has the volume's file, because the node can then write to the volume.
func (b *Backend) Detach(ctx context.Context, id, node string) (err error) {
	defer func() { err = volume.Wrap(err, "detach", id) }()
	o, unlock, err := b.store.Lock(ctx, volumedir.Volumes, id)
	if volume.IsKind(err, volume.KindNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if a := o.Attachment; a != nil {
		if node != "" && node != a.Node {
			return nil
		}
		if err := b.checkNotConnected(o); err != nil {
			return err
		}
	}
	// Also without an attachment: an interrupted Attach may have left a temporary file.
	return b.store.removeAttachment(id)
}

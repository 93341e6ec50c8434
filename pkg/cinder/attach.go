package cinder

import (
	"context"
	"strconv"
	"strings"

	"github.com/growvol/growvol/pkg/cinder/internal/attachment"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Attach implements volume.Attacher; see attachment.Attachment.Attach.
func (b *Backend) Attach(ctx context.Context, req volume.AttachRequest) (map[string]string, error) {
	c, err := b.locator.Volume(ctx, req.VolumeID)
	if err != nil {
		return nil, volume.Wrap(err, "attach", req.VolumeID)
	}
	a := b.attachment(c, req.VolumeID, req.Node)
	a.Shared = req.Access.IsShared()
	v, err := a.Attach(ctx)
	if err != nil {
		return nil, volume.Wrap(err, "attach", req.VolumeID)
	}
	if b.opts.ClusterID != "" && !b.isListed(v) {
		b.statics.add(v.ID, c.Name())
	}
	return publishContext(v, req.Node), nil
}

// Detach implements volume.Attacher; see attachment.Attachment.Detach.
func (b *Backend) Detach(ctx context.Context, id, node string) error {
	c, err := b.locator.Volume(ctx, id)
	if err == nil {
		err = b.attachment(c, id, node).Detach(ctx)
	}
	return volume.Wrap(err, "detach", id)
}

func (b *Backend) attachment(c *cloud.Cloud, id, server string) attachment.Attachment {
	return attachment.Attachment{API: c, Pollers: b.pollers, Log: b.log, VolumeID: id, ServerID: server}
}

// publishContext returns what the node needs to know about the volume. The device path is a guess
// of Cinder or Nova.
func publishContext(v cloud.Volume, server string) map[string]string {
	published := map[string]string{cindercsi.ContextSize: strconv.FormatInt(cloud.SizeOf(v).Bytes(), 10)}
	if v.Encrypted {
		published[cindercsi.ContextEncrypted] = "true"
	}
	for _, at := range v.Attachments {
		if strings.EqualFold(at.ServerID, server) && at.Device != "" {
			published[cindercsi.ContextDevicePath] = at.Device
		}
	}
	return published
}

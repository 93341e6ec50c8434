package openstack_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
)

// testAttachments: where a volume may go and where not, by what Nova and
// Cinder really say.
func (r *rig) testAttachments(t *testing.T) {
	r.tidy(t)
	ctx, c := limited(t), r.client()
	first, second := r.guest(t, openstack.VirtioBlk), r.guest(t, openstack.VirtioSCSI)
	const absent = "11111111-2222-3333-4444-555555555555"
	v := get(first.Create(ctx, name(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	must(t, first.Attach(ctx, v))
	must(t, first.Attach(ctx, v)) // the repeated call finds it done

	wantCode(t, second.Attach(ctx, v), codes.FailedPrecondition, v.ID, first.ID)
	_, err := c.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: absent, NodeId: first.ID, VolumeCapability: v.Capability})
	wantCode(t, err, codes.NotFound, absent)
	wantCode(t, first.Delete(ctx, v), codes.FailedPrecondition, v.ID, first.ID)
	r.wantSize(t, v.ID, gib, "in-use")

	// Where it is not attached there is nothing to detach.
	must(t, second.Detach(ctx, v))
	_, err = c.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.ID, NodeId: absent})
	must(t, err)
	r.wantSize(t, v.ID, gib, "in-use")
	must(t, first.Detach(ctx, v))
	must(t, first.Detach(ctx, v))
	r.wantSize(t, v.ID, gib, "available")
	_, err = c.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: v.ID, NodeId: absent, VolumeCapability: v.Capability})
	wantCode(t, err, codes.NotFound, absent)
	must(t, second.Attach(ctx, v))
	must(t, second.Detach(ctx, v))
	must(t, first.Delete(ctx, v))
	t.Run("server deleted", func(t *testing.T) { detachFromDeleted(t, r) })
}

// detachFromDeleted: a node that is gone does not keep its volumes.
func detachFromDeleted(t *testing.T, r *rig) {
	t.Helper()
	ctx, c := limited(t), r.client()
	image := get(servers.Get(ctx, r.User.Compute, r.guests[openstack.VirtioBlk].ID).Extract())(t).Image["id"]
	opts := servers.CreateOpts{Name: name(t), ImageRef: fmt.Sprint(image), FlavorRef: openstack.FlavorMedium, Networks: "none"}
	server := get(servers.Create(ctx, r.User.Compute, opts, nil).Extract())(t).ID
	must(t, openstack.Eventually(ctx, "server is active", func(ctx context.Context) (bool, error) {
		s, err := servers.Get(ctx, r.User.Compute, server).Extract()
		return err == nil && s.Status == "ACTIVE", err
	}))
	id := get(c.CreateVolume(ctx, request(name(t), gib)))(t).GetVolume().GetVolumeId()
	get(c.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: server, VolumeCapability: csiclient.MountCapability("ext4")}))(t)
	must(t, servers.Delete(ctx, r.User.Compute, server).ExtractErr())
	// Asked at once and again, as external-attacher does: Nova, still at it,
	// refuses at first.
	must(t, openstack.Eventually(ctx, "the volume is detached", func(ctx context.Context) (bool, error) {
		_, err := c.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: server})
		if status.Code(err) == codes.Aborted {
			return false, nil
		}
		return err == nil, err
	}))
	r.wantSize(t, id, gib, "available")
	get(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
}

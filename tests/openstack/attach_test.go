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
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testAttachments checks where a volume can be attached and detached, by the answers of Nova and
// Cinder.
func (r *rig) testAttachments(t *testing.T) {
	r.checkLeftovers(t)
	ctx, c := testContext(t), r.client()
	first, second := r.guest(t, openstack.BusVirtioBlk), r.guest(t, openstack.BusVirtioSCSI)
	const unknownID = "11111111-2222-3333-4444-555555555555"
	v := must.Value(first.Create(ctx, testName(t), gib, csiclient.MountCapability("ext4"), nil))(t)
	must.Succeed(t, first.Attach(ctx, v))
	must.Succeed(t, first.Attach(ctx, v)) // a repeated call succeeds

	must.FailWith(t, second.Attach(ctx, v), codes.FailedPrecondition, v.ID, first.ID)
	_, err := c.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId:         unknownID,
		NodeId:           first.ID,
		VolumeCapability: v.Capability,
	})
	must.FailWith(t, err, codes.NotFound, unknownID)
	must.FailWith(t, first.Delete(ctx, v), codes.FailedPrecondition, v.ID, first.ID)
	r.wantSize(t, v.ID, gib, "in-use")

	// A detachment from a server without the volume succeeds.
	must.Succeed(t, second.Detach(ctx, v))
	_, err = c.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.ID, NodeId: unknownID})
	must.Succeed(t, err)
	r.wantSize(t, v.ID, gib, "in-use")
	must.Succeed(t, first.Detach(ctx, v))
	must.Succeed(t, first.Detach(ctx, v))
	r.wantSize(t, v.ID, gib, "available")
	_, err = c.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId:         v.ID,
		NodeId:           unknownID,
		VolumeCapability: v.Capability,
	})
	must.FailWith(t, err, codes.NotFound, unknownID)
	must.Succeed(t, second.Attach(ctx, v))
	must.Succeed(t, second.Detach(ctx, v))
	must.Succeed(t, first.Delete(ctx, v))
	t.Run("server deleted", func(t *testing.T) { detachFromDeleted(t, r) })
}

// detachFromDeleted checks that a volume can be detached from a deleted server.
func detachFromDeleted(t *testing.T, r *rig) {
	t.Helper()
	ctx, c := testContext(t), r.client()
	image := must.Value(servers.Get(ctx, r.User.Compute, r.guests[openstack.BusVirtioBlk].ID).Extract())(t).Image["id"]
	opts := servers.CreateOpts{
		Name:      testName(t),
		ImageRef:  fmt.Sprint(image),
		FlavorRef: openstack.FlavorMedium,
		Networks:  "none",
	}
	server := must.Value(servers.Create(ctx, r.User.Compute, opts, nil).Extract())(t).ID
	must.Succeed(t, openstack.WaitUntil(ctx, "server is active", func(ctx context.Context) (bool, error) {
		s, err := servers.Get(ctx, r.User.Compute, server).Extract()
		return err == nil && s.Status == "ACTIVE", err
	}))
	id := must.Value(c.CreateVolume(ctx, createRequest(testName(t), gib)))(t).GetVolume().GetVolumeId()
	must.Value(c.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId:         id,
		NodeId:           server,
		VolumeCapability: csiclient.MountCapability("ext4"),
	}))(t)
	must.Succeed(t, servers.Delete(ctx, r.User.Compute, server).ExtractErr())
	// external-attacher repeats the call: Nova refuses it while the server is being deleted.
	must.Succeed(t, openstack.WaitUntil(ctx, "the volume is detached", func(ctx context.Context) (bool, error) {
		_, err := c.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: server})
		if status.Code(err) == codes.Aborted {
			return false, nil
		}
		return err == nil, err
	}))
	r.wantSize(t, id, gib, "available")
	must.Value(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id}))(t)
}

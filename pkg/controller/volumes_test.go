package controller

import (
	"context"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

func TestDeleteVolume(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	id := createVolume(t, s, "v", volume.GiB)
	if _, err := publish(t, s, id, "node-1", mountAs(singleWriter)); err != nil {
		t.Fatal(err)
	}
	_, err := s.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	volumetest.WantKind(t, err, volume.KindPrecondition, id, "node-1")
	if _, err := s.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{
		VolumeId: id,
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second call finds no volume
		if _, err := s.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	volumetest.WantKind(t, err, volume.KindNotFound, id)
}

func publish(
	t *testing.T, s *Server, id, node string, c *csi.VolumeCapability,
) (*csi.ControllerPublishVolumeResponse, error) {
	t.Helper()
	return s.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: id, NodeId: node, VolumeCapability: c,
	})
}

func TestPublishVolume(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	one := createVolume(t, s, "1", volume.GiB)
	two := createVolume(t, s, "2", volume.GiB)
	three := createVolume(t, s, "3", volume.GiB)
	for range 2 {
		resp, err := publish(t, s, one, "node-1", mountAs(singleWriter))
		if err != nil || resp.GetPublishContext()["device"] != one+"/node-1" {
			t.Fatalf("got %v, %v, want the context of the backend", resp, err)
		}
	}
	_, err := publish(t, s, one, "node-1", blockAs(singleWriter))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, one)
	_, err = publish(t, s, one, "node-2", mountAs(singleWriter))
	volumetest.WantKind(t, err, volume.KindPrecondition, "node-1")
	_, err = publish(t, s, one, "node-9", mountAs(singleWriter))
	volumetest.WantKind(t, err, volume.KindNotFound, "node-9")
	_, err = publish(t, s, "vol-9", "node-1", mountAs(singleWriter))
	volumetest.WantKind(t, err, volume.KindNotFound, "vol-9")
	_, err = publish(t, s, one, "", mountAs(singleWriter))
	volumetest.WantKind(t, err, volume.KindInvalid, "node_id")
	_, err = publish(t, s, one, "node-1", nil)
	volumetest.WantKind(t, err, volume.KindInvalid, "capability")
	if _, err := publish(t, s, two, "node-1", mountAs(singleWriter)); err != nil {
		t.Fatal(err)
	}
	_, err = publish(t, s, three, "node-1", mountAs(singleWriter))
	volumetest.WantKind(t, err, volume.KindExhausted, "node-1")
	_, err = s.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{
		VolumeId: three, NodeId: "node-2", VolumeCapability: mountAs(singleWriter), Readonly: true,
	})
	volumetest.WantKind(t, err, volume.KindInvalid, "PUBLISH_READONLY")

	got, err := s.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: one})
	if err != nil || len(got.GetStatus().GetPublishedNodeIds()) != 1 ||
		got.GetStatus().GetPublishedNodeIds()[0] != "node-1" {
		t.Errorf("got %v, %v, want node-1", got, err)
	}
}

func TestUnpublishSucceedsWhenNothingIsAttached(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	id := createVolume(t, s, "v", volume.GiB)
	for _, req := range []*csi.ControllerUnpublishVolumeRequest{
		{
			VolumeId: "vol-9", NodeId: "node-1",
		}, {VolumeId: id, NodeId: "node-9"}, {VolumeId: id, NodeId: "node-1"}, {VolumeId: id},
	} {
		if _, err := s.ControllerUnpublishVolume(t.Context(), req); err != nil {
			t.Errorf("%v: got %v, want success", req, err)
		}
	}
}

func TestValidateVolumeCapabilities(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	id := createVolume(t, s, "v", volume.GiB)
	for name, test := range map[string]struct {
		caps    []*csi.VolumeCapability
		context map[string]string
		refusal string // empty: confirmed
	}{
		"one": {caps: []*csi.VolumeCapability{mountAs(singleWriter)}},
		"two": {
			caps: []*csi.VolumeCapability{
				mountAs(singleWriter), mountAs(csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY),
			},
		},
		"with the context and a key of the sidecar": {
			caps: []*csi.VolumeCapability{
				blockAs(singleWriter),
			}, context: map[string]string{"pool": "fake", "storage.kubernetes.io/x": "y"},
		},
		"one of two not supported": {
			caps: []*csi.VolumeCapability{
				mountAs(singleWriter), mountAs(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY),
			},
			refusal: "MULTI_NODE_READER_ONLY",
		},
		"block and filesystem": {
			caps: []*csi.VolumeCapability{mountAs(singleWriter), blockAs(singleWriter)}, refusal: "block",
		},
		"raw, on several nodes": {
			caps: []*csi.VolumeCapability{blockAs(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)},
		},
		"a filesystem on several nodes": {
			caps: []*csi.VolumeCapability{
				mountAs(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER),
			}, refusal: "needs a block volume",
		},
		"another context": {
			caps: []*csi.VolumeCapability{mountAs(singleWriter)}, context: map[string]string{"pool": "x"}, refusal: "pool",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, err := s.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: id, VolumeCapabilities: test.caps, VolumeContext: test.context,
			})
			if err != nil {
				t.Fatal(err)
			}
			if test.refusal != "" {
				if resp.GetConfirmed() != nil || !strings.Contains(resp.GetMessage(), test.refusal) {
					t.Errorf("got %v, want a message with %q", resp, test.refusal)
				}
				return
			}
			confirmed := resp.GetConfirmed()
			if len(confirmed.GetVolumeCapabilities()) != len(test.caps) ||
				len(confirmed.GetVolumeContext()) != len(test.context) || resp.GetMessage() != "" {
				t.Errorf("got %v, want all confirmed", resp)
			}
		})
	}
	_, err := s.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: "vol-9", VolumeCapabilities: []*csi.VolumeCapability{mountAs(singleWriter)},
	})
	volumetest.WantKind(t, err, volume.KindNotFound, "vol-9")
}

func TestModifyVolume(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New()
	s := New(fake, Options{})
	id := createVolume(t, s, "v", volume.GiB)
	modify := func(id string, parameters map[string]string) error {
		_, err := s.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: parameters,
		})
		return err
	}
	if err := modify(id, map[string]string{"tier": "silver"}); err != nil || fake.Tier(id) != "silver" {
		t.Errorf("got %v, tier %q, want silver", err, fake.Tier(id))
	}
	volumetest.WantKind(t, modify(id, nil), volume.KindInvalid, "mutable_parameters")
	volumetest.WantKind(t, modify(id, map[string]string{"tier": "lead"}), volume.KindInvalid, id, "lead")
	volumetest.WantKind(t, modify("vol-9", map[string]string{"tier": "gold"}), volume.KindNotFound, "vol-9")
	if fake.Tier(id) != "silver" {
		t.Errorf("after refused changes: got tier %q, want silver", fake.Tier(id))
	}
}

// notFoundBackend returns NotFound where other backends return success.
type notFoundBackend struct{ *fakebackend.Backend }

func (notFoundBackend) Delete(context.Context, string) error {
	return volume.Errorf(volume.KindNotFound, "there is no such object")
}

func (notFoundBackend) Detach(context.Context, string, string) error {
	return volume.Errorf(volume.KindNotFound, "there is no such object")
}

func (notFoundBackend) DeleteSnapshot(context.Context, string) error {
	return volume.Errorf(volume.KindNotFound, "there is no such object")
}

func TestNotFoundIsSuccessOfDeleteAndDetach(t *testing.T) {
	t.Parallel()
	s := New(notFoundBackend{fakebackend.New()}, Options{})
	if _, err := s.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: "x"}); err != nil {
		t.Error(err)
	}
	if _, err := s.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{
		VolumeId: "x", NodeId: "n",
	}); err != nil {
		t.Error(err)
	}
	if _, err := s.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: "x"}); err != nil {
		t.Error(err)
	}
}

// sharedBackend returns volumes that only readers on several nodes may use.
type sharedBackend struct{ *fakebackend.Backend }

func (b sharedBackend) Get(ctx context.Context, id string) (volume.Volume, error) {
	v, err := b.Backend.Get(ctx, id)
	v.AccessModes = []volume.AccessMode{volume.AccessMultiNodeReaderOnly}
	return v, err
}

// The modes of a volume, such as those of its type, have precedence over those of the backend.
func TestValidateUsesAccessModesOfVolume(t *testing.T) {
	t.Parallel()
	s := New(sharedBackend{fakebackend.New()}, Options{})
	id := createVolume(t, s, "v", volume.GiB)
	for mode, want := range map[csi.VolumeCapability_AccessMode_Mode]bool{
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY: true,
		singleWriter: false,
	} {
		resp, err := s.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{mountAs(mode)},
		})
		if got := resp.GetConfirmed() != nil; err != nil || got != want {
			t.Errorf("%s: got confirmed %t, %v, want %t", mode, got, err, want)
		}
	}
}

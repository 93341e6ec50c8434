package controller

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
	"github.com/growvol/growvol/tests/fakebackend"
)

// encryptedRequest requests a volume of a class with the parameter encrypted.
func encryptedRequest(name, value string) *csi.CreateVolumeRequest {
	req := createRequest(name, volume.GiB)
	req.Parameters = map[string]string{"encrypted": value, volume.MkfsOptionsKey: "-K"}
	return req
}

// Every answer about an encrypted volume tells the node to encrypt it: for a new volume, a
// copy, a retry and a listing.
func TestEveryAnswerTellsNodeToEncrypt(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New() // refuses unknown parameters
	s := New(fake, Options{})
	want := map[string]string{"pool": "fake", "encrypted": "true"}
	source, err := s.CreateVolume(t.Context(), encryptedRequest("source", "true"))
	if err != nil {
		t.Fatal(err)
	}
	id := source.GetVolume().GetVolumeId()
	snapshot, err := fake.CreateSnapshot(t.Context(), volume.SnapshotRequest{Name: "s", VolumeID: id})
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]*csi.VolumeContentSource{
		"source": nil, "clone": fromVolume(id), "restored": fromSnapshot(snapshot.ID),
	}
	for name, from := range sources {
		req := encryptedRequest(name, "true")
		req.VolumeContentSource = from
		for range 2 {
			resp, err := s.CreateVolume(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			v := resp.GetVolume()
			if !maps.Equal(v.GetVolumeContext(), want) {
				t.Errorf("%s: got context %v, want %v", name, v.GetVolumeContext(), want)
			}
			got, err := s.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v.GetVolumeId()})
			if err != nil || !maps.Equal(got.GetVolume().GetVolumeContext(), want) {
				t.Errorf("%s, read: got %v, %v, want context %v", name, got, err, want)
			}
		}
	}
	list, err := s.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(list.GetEntries()) != 3 {
		t.Fatalf("got %v, %v, want 3 volumes", list, err)
	}
	for _, e := range list.GetEntries() {
		if !maps.Equal(e.GetVolume().GetVolumeContext(), want) {
			t.Errorf("listed: got %v, want context %v", e, want)
		}
	}
	for _, context := range []map[string]string{want, {"pool": "fake"}} {
		resp, err := s.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeContext: context, VolumeCapabilities: []*csi.VolumeCapability{mountAs(singleWriter)},
		})
		if err != nil || (resp.GetConfirmed() != nil) != (context["encrypted"] != "") {
			t.Errorf("validated %v: got %v, %v, want confirmed: %t", context, resp, err, context["encrypted"] != "")
		}
	}
}

func TestEncryptedParameterMustBeTrueOrFalse(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"", "True", "yes", "1", " true", "luks"} {
		_, err := New(fakebackend.New(), Options{}).CreateVolume(t.Context(), encryptedRequest("v", value))
		volumetest.WantKind(t, err, volume.KindInvalid, "encrypted", `"`+value+`"`, `"true"`, `"false"`, "next step")
	}
	s := New(fakebackend.New(), Options{})
	resp, err := s.CreateVolume(t.Context(), encryptedRequest("v", "false"))
	if _, found := resp.GetVolume().GetVolumeContext()["encrypted"]; err != nil || found {
		t.Errorf("encrypted=false: got %v, %v, want no such key in the context", resp, err)
	}
	if _, err := s.CreateVolume(t.Context(), createRequest("v", volume.GiB)); err != nil {
		t.Errorf("without the parameter: got %v, want the same volume as with false", err)
	}
	// The backend gets the other parameters.
	req := encryptedRequest("w", "true")
	req.Parameters["encryption"] = "true"
	_, err = s.CreateVolume(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInvalid, "encryption")
}

func TestCreateRefusesVolumeWithOtherEncryption(t *testing.T) {
	t.Parallel()
	s := New(fakebackend.New(), Options{})
	createVolume(t, s, "plain", volume.GiB)
	_, err := s.CreateVolume(t.Context(), encryptedRequest("plain", "true"))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "is not encrypted by the node", "next step")
	if _, err := s.CreateVolume(t.Context(), encryptedRequest("secret", "true")); err != nil {
		t.Fatal(err)
	}
	_, err = s.CreateVolume(t.Context(), encryptedRequest("secret", "false"))
	volumetest.WantKind(t, err, volume.KindAlreadyExists, "is encrypted by the node", "next step")
}

// Nodes that write concurrently would each write a LUKS2 header.
func TestEncryptedVolumeAllowsOneWritingNode(t *testing.T) {
	t.Parallel()
	const shared = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	s := New(fakebackend.New(), Options{})
	for _, value := range []string{"true", "false"} {
		req := encryptedRequest("shared-"+value, value)
		req.VolumeCapabilities = []*csi.VolumeCapability{blockAs(singleWriter), blockAs(shared)}
		_, err := s.CreateVolume(t.Context(), req)
		if value == "false" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		volumetest.WantKind(t, err, volume.KindInvalid, "MULTI_NODE_MULTI_WRITER", "encrypted", "next step")
	}
	v, err := s.CreateVolume(t.Context(), encryptedRequest("one", "true"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: v.GetVolume().GetVolumeId(), VolumeCapabilities: []*csi.VolumeCapability{blockAs(shared)},
	})
	if err != nil || resp.GetConfirmed() != nil || !strings.Contains(resp.GetMessage(), "MULTI_NODE_MULTI_WRITER") {
		t.Errorf("validated: got %v, %v, want it not confirmed", resp, err)
	}
}

// forgetfulBackend does not record that a volume is encrypted.
type forgetfulBackend struct{ *fakebackend.Backend }

func (b forgetfulBackend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	v, err := b.Backend.Create(ctx, req)
	v.Encrypted = false
	return v, err
}

// A backend that forgets the encryption would let the node mount the volume without it after
// the next answer.
func TestCreateFailsWhenBackendForgetsEncryption(t *testing.T) {
	t.Parallel()
	_, err := New(forgetfulBackend{fakebackend.New()}, Options{}).CreateVolume(t.Context(), encryptedRequest("v", "true"))
	volumetest.WantKind(t, err, volume.KindUnavailable, "encrypted=false") // not final: the volume exists
}

// mountWith is the capability of a claim whose class names a filesystem.
func mountWith(fstype string) *csi.VolumeCapability {
	c := mountAs(singleWriter)
	c.GetMount().FsType = fstype
	return c
}

// The backend does not get the deprecated parameters without a prefix, which the sidecars
// read and pass on.
func TestDeprecatedParametersAreNotPassedToBackend(t *testing.T) {
	t.Parallel()
	deprecated := map[string]string{
		"csiProvisionerSecretName": "a", "csiProvisionerSecretNamespace": "b", "csiControllerPublishSecretName": "c",
		"csiControllerPublishSecretNamespace": "d",
		"csiNodeStageSecretName":              "e", "csiNodeStageSecretNamespace": "f", "csiNodePublishSecretName": "g",
		"csiNodePublishSecretNamespace": "h",
	}
	for _, key := range []string{"fsType", "fstype", "FSTYPE", "FsType"} {
		s := New(fakebackend.New(), Options{}) // refuses unknown parameters
		class := maps.Clone(deprecated)
		class[key], class["encrypted"] = "xfs", "false"
		sent := maps.Clone(class)
		req := createRequest(key, volume.GiB)
		req.VolumeCapabilities = []*csi.VolumeCapability{mountWith("xfs")}
		req.Parameters = class
		if _, err := s.CreateVolume(t.Context(), req); err != nil {
			t.Error(err)
		}
		if _, err := s.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: class}); err != nil {
			t.Error(err)
		}
		if !maps.Equal(class, sent) {
			t.Errorf("parameters of the request: got %v, want %v", class, sent)
		}
	}
	s := New(fakebackend.New(), Options{})
	id := createVolume(t, s, "source", volume.GiB)
	class := map[string]string{"csiSnapshotterSecretName": "a", "csiSnapshotterSecretNamespace": "b"}
	if _, err := s.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{
		Name: "s", SourceVolumeId: id, Parameters: class,
	}); err != nil {
		t.Error(err)
	}
	req := createRequest("other", volume.GiB)
	req.Parameters = map[string]string{"csiprovisionersecretname": "a"} // unknown to the provisioner too
	_, err := s.CreateVolume(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInvalid, "csiprovisionersecretname")
}

// The node reads the filesystem in the volume capability, so a class that names another one
// is refused.
func TestClassAndCapabilityMustNameSameFilesystem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		parameters map[string]string
		capability *csi.VolumeCapability
		words      []string
	}{
		"same":  {map[string]string{"fsType": "XFS "}, mountWith("xfs"), nil},
		"empty": {map[string]string{"fsType": ""}, mountWith("ext4"), nil},
		"block": {map[string]string{"fsType": "xfs"}, blockAs(singleWriter), nil},
		"twice": {map[string]string{"fsType": "xfs", "fstype": "xfs", "FSTYPE": ""}, mountWith("xfs"), nil},
		"none": {
			map[string]string{"fsType": "xfs"}, mountWith(""), []string{`"xfs"`, "the volume capability names none", "fs_type"},
		},
		"another": {
			map[string]string{"fstype": "xfs"},
			mountWith("ext4"),
			[]string{`"xfs"`, `the volume capability names "ext4"`, "next step"},
		},
		"different": {
			map[string]string{"fsType": "xfs", "fstype": "ext4"},
			mountWith("xfs"),
			[]string{`the filesystems "ext4" and "xfs"`, "csi.storage.k8s.io/fstype"},
		},
	} {
		req := createRequest("v", volume.GiB)
		req.Parameters, req.VolumeCapabilities = c.parameters, []*csi.VolumeCapability{c.capability}
		_, err := New(fakebackend.New(), Options{}).CreateVolume(t.Context(), req)
		switch {
		case c.words == nil && err != nil:
			t.Errorf("%s: got %v, want success", name, err)
		case c.words != nil:
			volumetest.WantKind(t, err, volume.KindInvalid, c.words...)
		}
	}
}

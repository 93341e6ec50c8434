package controller

import (
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakebackend"
)

func mountAs(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func blockAs(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

const singleWriter = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER

func bytesRange(required, limit volume.Size) *csi.CapacityRange {
	return &csi.CapacityRange{RequiredBytes: required.Bytes(), LimitBytes: limit.Bytes()}
}

func createRequest(name string, size volume.Size) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: bytesRange(size, 0), VolumeCapabilities: []*csi.VolumeCapability{mountAs(singleWriter)},
	}
}

// createVolume creates a volume and returns its id.
func createVolume(t *testing.T, s *Server, name string, size volume.Size) string {
	t.Helper()
	resp, err := s.CreateVolume(t.Context(), createRequest(name, size))
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetVolume().GetVolumeId()
}

// minimalBackend is a backend without optional interfaces. Tests embed it together with the
// optional interfaces that they need.
type minimalBackend struct{ volume.Backend }

func (minimalBackend) HasTopology() bool { return false }

func TestCapabilitiesFollowBackend(t *testing.T) {
	t.Parallel()
	const (
		volumes   = csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME
		publish   = csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME
		list      = csi.ControllerServiceCapability_RPC_LIST_VOLUMES
		capacity  = csi.ControllerServiceCapability_RPC_GET_CAPACITY
		snapshots = csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT
		listSnaps = csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS
		clone     = csi.ControllerServiceCapability_RPC_CLONE_VOLUME
		expand    = csi.ControllerServiceCapability_RPC_EXPAND_VOLUME
		published = csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES
		get       = csi.ControllerServiceCapability_RPC_GET_VOLUME
		writers   = csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER
		modify    = csi.ControllerServiceCapability_RPC_MODIFY_VOLUME
		getSnap   = csi.ControllerServiceCapability_RPC_GET_SNAPSHOT
		health    = csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH
		unhealthy = csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH
	)
	type types = []csi.ControllerServiceCapability_RPC_Type
	fake := fakebackend.New()
	c := minimalBackend{fake}
	for name, test := range map[string]struct {
		backend  volume.Backend
		optional types
	}{
		"nothing optional, one mode": {fakebackend.Nop{}, nil},
		"nothing optional":           {c, types{writers}},
		"Attacher": {struct {
			minimalBackend
			volume.Attacher
		}{c, fake}, types{publish, writers}},
		"Lister": {struct {
			minimalBackend
			volume.Lister
		}{c, fake}, types{list, writers}},
		"Lister and Attacher": {struct {
			minimalBackend
			volume.Lister
			volume.Attacher
		}{c, fake, fake}, types{publish, list, published, writers}},
		"CapacityReporter": {struct {
			minimalBackend
			volume.CapacityReporter
		}{c, fake}, types{capacity, writers}},
		"Snapshotter": {struct {
			minimalBackend
			volume.Snapshotter
		}{c, fake}, types{snapshots, getSnap, writers}},
		"SnapshotLister": {struct {
			minimalBackend
			volume.SnapshotLister
		}{c, fake}, types{listSnaps, writers}},
		"Cloner": {struct {
			minimalBackend
			volume.Cloner
		}{c, fake}, types{clone, writers}},
		"Modifier": {struct {
			minimalBackend
			volume.Modifier
		}{c, fake}, types{modify, writers}},
		"HealthReporter": {struct {
			minimalBackend
			volume.HealthReporter
		}{c, fake}, types{health, writers}},
		// CSI allows LIST_VOLUME_HEALTH only with GET_VOLUME_HEALTH.
		"HealthLister": {struct {
			minimalBackend
			volume.HealthLister
		}{c, fake}, types{health, unhealthy, writers}},
		"all": {
			fake,
			types{health, unhealthy, publish, list, capacity, snapshots, listSnaps, clone, published, writers, modify, getSnap},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, err := New(test.backend, Options{}).ControllerGetCapabilities(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got types
			for _, c := range resp.GetCapabilities() {
				got = append(got, c.GetRpc().GetType())
			}
			want := append(types{volumes, expand, get}, test.optional...)
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got capabilities %v, want %v", got, want)
			}
		})
	}
}

// An RPC that is not advertised returns Unsupported; the others return Invalid without their
// REQUIRED fields.
func TestEmptyRequestsFail(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		server *Server
		kinds  map[string]volume.Kind
	}{
		"all interfaces": {New(fakebackend.New(), Options{}), map[string]volume.Kind{
			"publish": volume.KindInvalid, "unpublish": volume.KindInvalid, "create snapshot": volume.KindInvalid,
			"delete snapshot": volume.KindInvalid,
			"get snapshot":    volume.KindInvalid, "modify": volume.KindInvalid, "health": volume.KindInvalid,
		}},
		"no optional interface": {New(minimalBackend{fakebackend.New()}, Options{}), map[string]volume.Kind{
			"publish": volume.KindUnsupported, "unpublish": volume.KindUnsupported, "create snapshot": volume.KindUnsupported,
			"delete snapshot": volume.KindUnsupported,
			"get snapshot":    volume.KindUnsupported, "modify": volume.KindUnsupported, "health": volume.KindUnsupported,
			"list health": volume.KindUnsupported,
			"list":        volume.KindUnsupported, "list snapshots": volume.KindUnsupported, "capacity": volume.KindUnsupported,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			always := map[string]volume.Kind{
				"create": volume.KindInvalid, "delete": volume.KindInvalid, "get": volume.KindInvalid, "expand": volume.KindInvalid,
				"validate": volume.KindInvalid,
			}
			for method, err := range emptyCalls(t, test.server) {
				want, ok := always[method]
				if !ok {
					want, ok = test.kinds[method]
				}
				switch {
				case !ok && err != nil:
					t.Errorf("%s: got %v, want success", method, err)
				case ok && !volume.IsKind(err, want):
					t.Errorf("%s: got %v, want kind %s", method, err, want)
				}
			}
		})
	}
}

func emptyCalls(t *testing.T, s *Server) map[string]error {
	t.Helper()
	ctx := t.Context()
	calls := make(map[string]error)
	_, calls["create"] = s.CreateVolume(ctx, &csi.CreateVolumeRequest{})
	_, calls["delete"] = s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{})
	_, calls["get"] = s.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{})
	_, calls["expand"] = s.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{})
	_, calls["validate"] = s.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{})
	_, calls["publish"] = s.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{})
	_, calls["unpublish"] = s.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{})
	_, calls["list"] = s.ListVolumes(ctx, &csi.ListVolumesRequest{})
	_, calls["capacity"] = s.GetCapacity(ctx, &csi.GetCapacityRequest{})
	_, calls["create snapshot"] = s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{})
	_, calls["delete snapshot"] = s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{})
	_, calls["get snapshot"] = s.GetSnapshot(ctx, &csi.GetSnapshotRequest{})
	_, calls["list snapshots"] = s.ListSnapshots(ctx, &csi.ListSnapshotsRequest{})
	_, calls["modify"] = s.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{})
	_, calls["health"] = s.ControllerGetVolumeHealth(ctx, &csi.ControllerGetVolumeHealthRequest{})
	_, calls["list health"] = s.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{})
	return calls
}

func BenchmarkExpand(b *testing.B) {
	s := New(fakebackend.Nop{}, Options{})
	req := &csi.ControllerExpandVolumeRequest{
		VolumeId: "v", CapacityRange: bytesRange(2*volume.GiB, 0), VolumeCapability: mountAs(singleWriter),
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.ControllerExpandVolume(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

// Package conformance tests the controller as the sidecars use it: over a unix socket,
// through package csiserver, and with csi-sanity.
package conformance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/controller"
	"github.com/growvol/growvol/pkg/csiserver"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakebackend"
)

// node is the part of a Node service that csi-sanity needs to test a controller.
type node struct{ csi.UnimplementedNodeServer }

func (node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId: "node-2", AccessibleTopology: &csi.Topology{Segments: map[string]string{fakebackend.TopologyKey: "a"}},
	}, nil
}

func (node) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (node) NodePublishVolume(
	_ context.Context, req *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	return &csi.NodePublishVolumeResponse{}, os.MkdirAll(req.GetTargetPath(), 0o750)
}

func (node) NodeUnpublishVolume(
	_ context.Context, req *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, os.RemoveAll(req.GetTargetPath())
}

// serve runs the controller over a backend until the test ends.
func serve(tb testing.TB, backend volume.Backend) (endpoint string) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "csi") //nolint:usetesting // the socket's path must be short
	if err != nil {
		tb.Fatal(err)
	}
	endpoint = "unix://" + filepath.Join(dir, "csi.sock")
	server := controller.New(backend, controller.Options{})
	identity, err := csiserver.NewIdentity("fake.growvol.io", true, backend.CheckHealth, server.PluginServices()...)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() {
		done <- csiserver.Run(ctx, csiserver.Options{
			Endpoint: endpoint, Identity: identity, Controller: server, Node: node{},
			GroupController: server, SnapshotMetadata: server,
		})
	}()
	tb.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, os.RemoveAll(dir)); err != nil {
			tb.Error(err)
		}
	})
	return endpoint
}

func dial(tb testing.TB, endpoint string) csi.ControllerClient {
	tb.Helper()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
	})
	return csi.NewControllerClient(conn)
}

// TestSanity runs the parts of csi-sanity for the controller and the identity.
func TestSanity(t *testing.T) {
	endpoint := serve(t, fakebackend.New())
	paths := t.TempDir()
	config := sanity.NewTestConfig()
	config.Address = endpoint
	config.TargetPath, config.StagingPath = filepath.Join(paths, "target"), filepath.Join(paths, "staging")
	config.TestVolumeSize, config.TestVolumeExpandSize = volume.GiB.Bytes(), (2 * volume.GiB).Bytes()
	config.TestVolumeMutableParameters = map[string]string{"tier": "gold"}
	sc := sanity.GinkgoTest(&config)
	t.Cleanup(sc.Finalize)
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.FocusStrings = []string{"Controller Server", "GroupController", "Identity Service"}
	passed := 0
	ginkgo.ReportAfterSuite("count", func(report ginkgo.Report) {
		for _, spec := range report.SpecReports {
			switch {
			case spec.State == types.SpecStatePassed:
				passed++
			case spec.Failure.Message != "":
				t.Logf("%s: %s: %s", spec.State, spec.FullText(), spec.Failure.Message)
			}
		}
	})
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
	// Without this check a filter that matches no spec would pass.
	if passed < 60 {
		t.Errorf("got %d passed specs, want at least 60", passed)
	}
	t.Logf("%d specs passed", passed)
}

// Each kind of error becomes the code to which the sidecars react correctly.
func TestErrorsBecomeCodes(t *testing.T) {
	t.Parallel()
	client, minimal := dial(t, serve(t, fakebackend.New())), dial(t, serve(t, fakebackend.Nop{}))
	listHealth := func(client csi.ControllerClient, entries int32, token string) func() error {
		return func() error {
			req := &csi.ControllerListVolumeHealthRequest{MaxEntries: entries, StartingToken: token}
			_, err := client.ControllerListVolumeHealth(t.Context(), req)
			return err
		}
	}
	capability := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
	created, err := client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "v", VolumeCapabilities: []*csi.VolumeCapability{capability},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetVolume().GetVolumeId()
	create := func(fstype string, size volume.Size, encrypted string) error {
		_, err := client.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
			Name: "v" + fstype, CapacityRange: &csi.CapacityRange{RequiredBytes: size.Bytes()},
			Parameters: map[string]string{"encrypted": encrypted},
			VolumeCapabilities: []*csi.VolumeCapability{{
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fstype}},
				AccessMode: capability.GetAccessMode(),
			}},
		})
		return err
	}
	attach := func(node string) error {
		_, err := client.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{
			VolumeId: id, NodeId: node, VolumeCapability: capability,
		})
		return err
	}
	if err := attach("node-1"); err != nil {
		t.Fatal(err)
	}
	expand := func(id string, size volume.Size) error {
		_, err := client.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
			VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: size.Bytes()},
		})
		return err
	}
	for name, test := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"expand":                {func() error { return expand(id, 2*volume.GiB) }, codes.OK},
		"expand above maximum":  {func() error { return expand(id, 2*volume.TiB) }, codes.OutOfRange},
		"expand unknown":        {func() error { return expand("vol-9", volume.GiB) }, codes.NotFound},
		"expand without size":   {func() error { return expand(id, 0) }, codes.InvalidArgument},
		"attach to second node": {func() error { return attach("node-2") }, codes.FailedPrecondition},
		"delete in use": {func() error {
			_, err := client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
			return err
		}, codes.FailedPrecondition},
		"bad token": {func() error {
			_, err := client.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: "x"})
			return err
		}, codes.Aborted},
		"health": {func() error {
			_, err := client.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
			return err
		}, codes.OK},
		"health in a list":                  {listHealth(client, 0, ""), codes.OK},
		"health in a list, negative number": {listHealth(client, -1, ""), codes.InvalidArgument},
		"health in a list, bad token":       {listHealth(client, 0, "x"), codes.Aborted},
		"health in a list, not supported":   {listHealth(minimal, 0, ""), codes.Unimplemented},
		"xfs that is too small": {
			func() error { return create("xfs", 100*volume.MiB, "false") }, codes.OutOfRange,
		},
		"encrypted as neither true nor false": {
			func() error { return create("ext4", volume.GiB, "yes") }, codes.InvalidArgument,
		},
		"encrypted, but the volume is not": {func() error { return create("", 0, "true") }, codes.AlreadyExists},
	} {
		if err := test.call(); status.Code(err) != test.want {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

// hangingBackend is a backend whose expansions end only with their context.
type hangingBackend struct{ *fakebackend.Backend }

func (hangingBackend) Expand(ctx context.Context, _ string, target volume.Size) (volume.Volume, error) {
	<-ctx.Done()
	return volume.Volume{}, &volume.Error{
		Kind: volume.KindOf(ctx.Err()), Msg: "the volume has not reached " + target.String(), Cause: ctx.Err(),
	}
}

// The caller's deadline ends an expansion and releases the volume's lock for the next call.
func TestDeadlineEndsExpandOfBackend(t *testing.T) {
	t.Parallel()
	client := dial(t, serve(t, hangingBackend{fakebackend.New()}))
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := client.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
			VolumeId: "v", CapacityRange: &csi.CapacityRange{RequiredBytes: volume.GiB.Bytes()},
		})
		cancel()
		if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Aborted {
			t.Errorf("got %v, want DEADLINE_EXCEEDED or ABORTED", err)
		}
	}
}

// BenchmarkExpandRPC measures a call through the socket and all layers, with a backend that
// takes no time.
func BenchmarkExpandRPC(b *testing.B) {
	client := dial(b, serve(b, fakebackend.Nop{}))
	req := &csi.ControllerExpandVolumeRequest{
		VolumeId: "v", CapacityRange: &csi.CapacityRange{RequiredBytes: volume.GiB.Bytes()},
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.ControllerExpandVolume(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

package main

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/programtest"
)

// outageNode is a server of the cloud.
const outageNode = "6e1a1f0e-0000-4000-8000-000000000001"

// While Cinder and Nova hang, every call that needs them answers before the deadline of its
// caller, with an error after which the caller retries and that names the volume of the call.
func TestCallsAnswerInTimeWhileCloudHangs(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	cloud.AddServer(outageNode)
	dir := programtest.SocketDir(t)
	path := must.Value(cloud.WriteCloudsYAML(dir))(t)
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	t.Setenv("CSI_ENDPOINT", endpoint)
	conn, stop := programtest.Start(t, newProgram(), endpoint, "--backend=cinder", "--clouds-yaml="+path, "--cloud=csi")
	defer stop()
	wantPlugin(t, conn, "cinder.csi.openstack.org")
	c := csi.NewControllerClient(conn)
	ids := make(map[string]string) // of the volume of each call: calls on one volume wait for each other
	for name := range outageCalls(c, "") {
		ids[name] = cloud.AddVolume(fakecloud.Volume{Size: 1})
		// From now on the driver knows the cloud of the volume.
		must.Value(c.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: ids[name]}))(t)
	}
	outage := cloud.On(fakecloud.Match{Path: regexp.MustCompile("^/(volume|compute)/")}, fakecloud.Hangs()).Always()
	defer outage.Remove()
	var group sync.WaitGroup
	for name, id := range ids {
		group.Go(func() { checkOutageCall(t, name, id, outageCalls(c, id)[name]) })
	}
	group.Wait()
}

// Calls that wait for Cinder's own work answer in time too.
func TestCallsAnswerInTimeWhileCinderIsBusy(t *testing.T) {
	cloud := fakecloud.Start(t, fakecloud.Options{})
	dir := programtest.SocketDir(t)
	path := must.Value(cloud.WriteCloudsYAML(dir))(t)
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	t.Setenv("CSI_ENDPOINT", endpoint)
	conn, stop := programtest.Start(t, newProgram(), endpoint, "--backend=cinder", "--clouds-yaml="+path, "--cloud=csi")
	defer stop()
	wantPlugin(t, conn, "cinder.csi.openstack.org")
	var group sync.WaitGroup
	for name, status := range map[string]string{"expand": "extending", "modify": "retyping", "delete": "deleting"} {
		id := cloud.AddVolume(fakecloud.Volume{Size: 1, Status: status})
		group.Go(func() { checkOutageCall(t, name, id, outageCalls(csi.NewControllerClient(conn), id)[name]) })
	}
	group.Wait()
}

func checkOutageCall(t *testing.T, name, id string, call func(context.Context) error) {
	t.Helper()
	var err, timeoutErr error
	// A short call leaves a margin of 400 ms, for which a busy machine may stop the process; a call of
	// 10 s leaves the full margin of 2 s.
	for _, timeout := range []time.Duration{2 * time.Second, 10 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		err = call(ctx)
		timeoutErr = ctx.Err()
		cancel()
		if timeoutErr == nil {
			break
		}
	}
	if timeoutErr != nil {
		t.Errorf("%s: the answer came after the deadline of the caller: %v", name, err)
		return
	}
	switch status.Code(err) {
	case codes.Aborted, codes.Unavailable, codes.DeadlineExceeded:
	default:
		t.Errorf("%s: got %v, want a code after which the caller retries", name, err)
	}
	if !strings.HasPrefix(name, "of all") && !strings.Contains(status.Convert(err).Message(), id) {
		t.Errorf("%s: got %v, want a message that names %s", name, err, id)
	}
}

// outageCalls returns the calls of the controller that need the cloud, for the volume or snapshot
// id. The names of calls that are about no single volume begin with "of all".
func outageCalls(c csi.ControllerClient, id string) map[string]func(context.Context) error {
	create := createRequest(id, volume.GiB)
	capabilities := create.GetVolumeCapabilities()
	size := &csi.CapacityRange{RequiredBytes: (2 * volume.GiB).Bytes()}
	return map[string]func(context.Context) error{
		"create": rpc(c.CreateVolume, create),
		"expand": rpc(c.ControllerExpandVolume, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: size}),
		"delete": rpc(c.DeleteVolume, &csi.DeleteVolumeRequest{VolumeId: id}),
		"get":    rpc(c.ControllerGetVolume, &csi.ControllerGetVolumeRequest{VolumeId: id}),
		"health": rpc(c.ControllerGetVolumeHealth, &csi.ControllerGetVolumeHealthRequest{VolumeId: id}),
		"modify": rpc(c.ControllerModifyVolume, &csi.ControllerModifyVolumeRequest{
			VolumeId: id, MutableParameters: map[string]string{"type": "rbd"},
		}),
		"validate": rpc(c.ValidateVolumeCapabilities, &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: capabilities,
		}),
		"publish": rpc(c.ControllerPublishVolume, &csi.ControllerPublishVolumeRequest{
			VolumeId: id, NodeId: outageNode, VolumeCapability: capabilities[0],
		}),
		"unpublish": rpc(c.ControllerUnpublishVolume, &csi.ControllerUnpublishVolumeRequest{
			VolumeId: id, NodeId: outageNode,
		}),
		"snapshot":        rpc(c.CreateSnapshot, &csi.CreateSnapshotRequest{SourceVolumeId: id, Name: "snapshot-1"}),
		"delete snapshot": rpc(c.DeleteSnapshot, &csi.DeleteSnapshotRequest{SnapshotId: id}),
		"get snapshot":    rpc(c.GetSnapshot, &csi.GetSnapshotRequest{SnapshotId: id}),

		"of all: volumes":   rpc(c.ListVolumes, &csi.ListVolumesRequest{}),
		"of all: snapshots": rpc(c.ListSnapshots, &csi.ListSnapshotsRequest{}),
		"of all: health":    rpc(c.ControllerListVolumeHealth, &csi.ControllerListVolumeHealthRequest{}),
		"of all: capacity":  rpc(c.GetCapacity, &csi.GetCapacityRequest{}),
	}
}

// rpc returns a call that returns only the error of a method.
func rpc[Request, Response any](
	method func(context.Context, Request, ...grpc.CallOption) (Response, error), req Request,
) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := method(ctx, req)
		return err
	}
}

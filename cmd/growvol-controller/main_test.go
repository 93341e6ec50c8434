package main

import (
	"flag"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/programtest"
)

func TestCommandLine(t *testing.T) {
	programtest.CheckCommandLines(t, newProgram, []string{"--loop-dir"}, map[string]programtest.CommandLine{
		"help":     {Args: []string{"--help"}, Stderr: "(default 16 TiB)"},
		"bad size": {Args: []string{"--loop-pool-size=10GB"}, ExitCode: 2, Stderr: "10Gi"},
		"no node":  {Args: []string{"--node-id="}, ExitCode: 1, Stderr: "--node-id"},

		"no clusters": {Args: []string{"--backend=rbd"}, ExitCode: 1, Stderr: "set --ceph-config"},
	})
}

// The controller plugin links nothing of the node, so that no fault there can reach the
// process that holds the cloud's credentials. Without build tags it links no Ceph: it is static.
func TestControllerLinksNothingOfTheNode(t *testing.T) {
	programtest.CheckDependencies(t,
		`growvol/pkg/((attached|blockdev|filesystem|instance|luks|node)(/|$)|loop/loopdev|rbd/krbd)|ceph/go-ceph`)
}

// The stop waits for what the loop backend detaches.
func TestStopWaitsForDetachedWorkOfLoop(t *testing.T) {
	var c config
	fs := flag.NewFlagSet("growvol-controller", flag.ContinueOnError)
	c.register(fs)
	if err := fs.Parse([]string{"--node-id=n", "--loop-dir=" + t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	options, closeBackend, err := newOptions(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer closeBackend()
	if options.Detached == nil {
		t.Error("got no detached work, want that of the backend")
	}
}

func TestSizeFlag(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]volume.Size{
		"0": 0, "1048576": volume.MiB, "3Ki": 3 * volume.KiB, "5Mi": 5 * volume.MiB, "10Gi": 10 * volume.GiB,
		"2Ti": 2 * volume.TiB,
	} {
		var s sizeFlag
		if err := s.Set(text); err != nil || volume.Size(s) != want {
			t.Errorf("%s: got %s, %v, want %s", text, &s, err, want)
		}
	}
	for _, text := range []string{"", "Gi", "-1", "1.5Gi", "10GB", "10 Gi", "9223372036854775807Ki"} {
		if err := new(sizeFlag).Set(text); err == nil {
			t.Errorf("%q: got success, want an error", text)
		}
	}
}

// A volume of the loop backend is created over the socket, expanded, found after a restart,
// and deleted.
func TestProgramWithLoop(t *testing.T) {
	dir := programtest.SocketDir(t)
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	t.Setenv("CSI_ENDPOINT", endpoint)
	args := []string{
		"--loop-dir=" + filepath.Join(dir, "loop"), "--node-id=node-1", "--loop-max-volume-size=1Gi", "--loop-pool-size=10Gi",
	}

	conn, stop := programtest.Start(t, newProgram(), endpoint, args...)
	wantPlugin(t, conn, "loop.growvol.io")
	client := csi.NewControllerClient(conn)
	created, err := client.CreateVolume(t.Context(), createRequest("pvc-1", volume.MiB))
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetVolume().GetVolumeId()
	if got := created.GetVolume().GetAccessibleTopology(); len(got) != 1 {
		t.Errorf("got topology %v, want that of the node", got)
	}
	expand := func(client csi.ControllerClient, target volume.Size) (volume.Size, error) {
		resp, err := client.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
			VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: target.Bytes()},
		})
		return volume.Size(resp.GetCapacityBytes()), err
	}
	if got, err := expand(client, 5*volume.MiB); err != nil || got != 5*volume.MiB {
		t.Errorf("expand to 5 MiB: got %s, %v", got, err)
	}
	if _, err := expand(client, 2*volume.GiB); status.Code(err) != codes.OutOfRange {
		t.Errorf("expand to 2 GiB: got %v, want OUT_OF_RANGE", err)
	}
	stop()

	conn, stop = programtest.Start(t, newProgram(), endpoint, append(args, "--driver-name=other.growvol.io")...)
	client = csi.NewControllerClient(conn)
	wantPlugin(t, conn, "other.growvol.io")
	got, err := client.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	if err != nil || got.GetVolume().GetCapacityBytes() != (5*volume.MiB).Bytes() {
		t.Errorf("after the restart: got %v, %v, want 5 MiB", got, err)
	}
	for range 2 {
		if _, err := client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Error(err)
		}
	}
	_, err = client.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	if status.Code(err) != codes.NotFound {
		t.Errorf("after the deletion: got %v, want NOT_FOUND", err)
	}
	stop()
}

// wantPlugin waits until the program answers, and fails the test unless its driver has the
// name and a version.
func wantPlugin(t *testing.T, conn *grpc.ClientConn, name string) {
	t.Helper()
	identity := csi.NewIdentityClient(conn)
	info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	if err != nil || info.GetName() != name || info.GetVendorVersion() == "" {
		t.Fatalf("plugin info: got %v, %v, want driver %s and a version", info, err, name)
	}
}

// createRequest requests a volume with a filesystem for one writer.
func createRequest(name string, s volume.Size) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: s.Bytes()},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
	}
}

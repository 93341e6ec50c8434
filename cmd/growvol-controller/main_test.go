package main

import (
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
	})
}

// The controller plugin links nothing of the node, so that no fault there can reach the
// process that holds the cloud's credentials.
func TestControllerLinksNothingOfTheNode(t *testing.T) {
	programtest.CheckDependencies(t, `growvol/pkg/((attached|blockdev|filesystem|instance|luks|node)(/|$)|loop/loopdev)`)
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]volume.Size{
		"0": 0, "1048576": volume.MiB, "3Ki": 3 * volume.KiB, "5Mi": 5 * volume.MiB, "10Gi": 10 * volume.GiB,
		"2Ti": 2 * volume.TiB,
	} {
		var s size
		if err := s.Set(text); err != nil || volume.Size(s) != want {
			t.Errorf("%s: %s, %v, want %s", text, &s, err, want)
		}
	}
	for _, text := range []string{"", "Gi", "-1", "1.5Gi", "10GB", "10 Gi", "9223372036854775807Ki"} {
		if err := new(size).Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// The program with the loop backend, over its socket: what was created grows,
// is there after a restart, and goes.
func TestProgram(t *testing.T) {
	dir := programtest.SocketDir(t)
	endpoint := "unix://" + filepath.Join(dir, "csi.sock")
	t.Setenv("CSI_ENDPOINT", endpoint)
	args := []string{
		"--loop-dir=" + filepath.Join(dir, "loop"), "--node-id=node-1", "--loop-max-volume-size=1Gi", "--loop-pool-size=10Gi",
	}

	conn, stop := programtest.Start(t, newProgram(), endpoint, args...)
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	if err != nil || info.GetName() != "loop.growvol.io" || info.GetVendorVersion() == "" {
		t.Fatalf("info %v, %v", info, err)
	}
	client := csi.NewControllerClient(conn)
	created, err := client.CreateVolume(t.Context(), createRequest("pvc-1", volume.MiB))
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetVolume().GetVolumeId()
	if got := created.GetVolume().GetAccessibleTopology(); len(got) != 1 {
		t.Errorf("topology %v, want that of the node", got)
	}
	expand := func(client csi.ControllerClient, target volume.Size) (volume.Size, error) {
		resp, err := client.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
			VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: target.Bytes()},
		})
		return volume.Size(resp.GetCapacityBytes()), err
	}
	if got, err := expand(client, 5*volume.MiB); err != nil || got != 5*volume.MiB {
		t.Errorf("expanded to %s, %v", got, err)
	}
	if _, err := expand(client, 2*volume.GiB); status.Code(err) != codes.OutOfRange {
		t.Errorf("above the largest: %v, want OUT_OF_RANGE", err)
	}
	stop()

	conn, stop = programtest.Start(t, newProgram(), endpoint, append(args, "--driver-name=other.growvol.io")...)
	client = csi.NewControllerClient(conn)
	info, err = csi.NewIdentityClient(conn).GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	if err != nil || info.GetName() != "other.growvol.io" {
		t.Errorf("info %v, %v", info, err)
	}
	got, err := client.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	if err != nil || got.GetVolume().GetCapacityBytes() != (5*volume.MiB).Bytes() {
		t.Errorf("after the restart: %v, %v, want 5 MiB", got, err)
	}
	for range 2 {
		if _, err := client.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Error(err)
		}
	}
	_, err = client.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	if status.Code(err) != codes.NotFound {
		t.Errorf("after the deletion: %v, want NOT_FOUND", err)
	}
	stop()
}

func createRequest(name string, s volume.Size) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: s.Bytes()},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
	}
}

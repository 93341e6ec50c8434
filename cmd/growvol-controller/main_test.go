package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/volume"
)

func TestCommandLine(t *testing.T) {
	for name, test := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"version":           {[]string{"--version"}, 0, "growvol-controller ", ""},
		"help":              {[]string{"--help"}, 0, "", "(default 16 TiB)"},
		"unknown option":    {[]string{"--nonsense"}, 2, "", "nonsense"},
		"argument":          {[]string{"nonsense"}, 2, "", `unexpected argument "nonsense"`},
		"bad size":          {[]string{"--loop-pool-size=10GB"}, 2, "", "10Gi"},
		"unknown backend":   {[]string{"--backend=tape"}, 1, "", `--backend "tape" is not known`},
		"no node":           {[]string{"--node-id="}, 1, "", "--node-id"},
		"bad log level":     {[]string{"--log-level=loud"}, 1, "", "loud"},
		"bad log format":    {[]string{"--log-format=xml"}, 1, "", "xml"},
		"bad driver name":   {[]string{"--driver-name=a_b"}, 1, "", "a_b"},
		"bad endpoint":      {[]string{"--endpoint=csi.sock"}, 1, "", "csi.sock"},
		"bad HTTP endpoint": {[]string{"--http-endpoint=256.0.0.1:x"}, 1, "", "256.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var stdout, stderr bytes.Buffer
			args := append([]string{"--loop-dir=" + dir, "--endpoint=unix://" + filepath.Join(dir, "s")}, test.args...)
			if code := run(t.Context(), args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("stdout %q, stderr %q, want %q and %q", &stdout, &stderr, test.stdout, test.stderr)
			}
		})
	}
}

// The controller plugin links nothing of the node's side, so that no fault there can reach
// the process that holds the cloud's credentials. One exception: package loop is backend
// and connector in one, and its connector identifies devices with package blockdev.
func TestControllerLinksNothingOfTheNode(t *testing.T) {
	const pkg = "github.com/growvol/growvol/pkg/"
	format := "{{.ImportPath}} {{join .Imports \" \"}}"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 100 {
		t.Errorf("only %d dependencies: %s", len(lines), out)
	}
	for _, line := range lines {
		importer, imports, _ := strings.Cut(line, " ")
		for dep := range strings.FieldsSeq(imports) {
			name, ours := strings.CutPrefix(dep, pkg)
			if !ours || !slices.Contains([]string{"attached", "blockdev", "filesystem", "instance", "luks", "node"}, name) {
				continue
			}
			if name == "blockdev" && importer == pkg+"loop" {
				continue
			}
			t.Errorf("the controller plugin links %s, by way of %s", dep, importer)
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]volume.Size{
		"0": 0, "1048576": volume.MiB, "3Ki": 3 * volume.KiB, "5Mi": 5 * volume.MiB, "10Gi": 10 * volume.GiB, "2Ti": 2 * volume.TiB,
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
	dir := shortDir(t)
	t.Setenv("CSI_ENDPOINT", "unix://"+filepath.Join(dir, "csi.sock"))
	args := []string{"--loop-dir=" + filepath.Join(dir, "loop"), "--node-id=node-1", "--loop-max-volume-size=1Gi", "--loop-pool-size=10Gi"}

	conn, stop := program(t, args)
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

	conn, stop = program(t, append(args, "--driver-name=other.growvol.io"))
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

// shortDir returns a directory for the test whose path is short enough for that of
// a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "growvol") //nolint:usetesting // the socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// program runs the program; stop ends it and checks that it ends well.
func program(t *testing.T, args []string) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var stderr bytes.Buffer
	go func() { done <- run(ctx, args, io.Discard, &stderr) }()
	conn, err := grpc.NewClient(os.Getenv("CSI_ENDPOINT"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return conn, func() {
		cancel()
		select {
		case code := <-done:
			if code != 0 {
				t.Errorf("exit code %d\n%s", code, &stderr)
			}
		case <-time.After(time.Minute):
			t.Error("the program does not stop")
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

package main

import (
	"bytes"
	"context"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func TestCommandLine(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // it may run in a pod
	for name, test := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"version":            {[]string{"--version"}, 0, "growvol-node ", ""},
		"help":               {[]string{"--help"}, 0, "", "-state-dir"},
		"unknown option":     {[]string{"--nonsense"}, 2, "", "nonsense"},
		"argument":           {[]string{"nonsense"}, 2, "", `unexpected argument "nonsense"`},
		"unknown backend":    {[]string{"--backend=tape"}, 1, "", `--backend "tape" is not known`},
		"unknown filesystem": {[]string{"--default-fstype=ntfs"}, 1, "", "--default-fstype"},
		"no node":            {[]string{"--node-id="}, 2, "", "-node-id"},
		"bad topology":       {[]string{"--additional-topology=rack"}, 2, "", "not key=value"},
		"zone of no use":     {[]string{"--backend=cinder", "--node-id=n", "--zone=///"}, 1, "", "--zone"},
		"negative reserve":   {[]string{"--backend=cinder", "--node-id=n", "--reserved-volumes=-1"}, 1, "", "--reserved-volumes is negative"},
		"limit and reserve":  {[]string{"--backend=cinder", "--node-id=n", "--reserved-volumes=1", "--max-volumes=5"}, 1, "", "give one of the two"},
		"negative limit":     {[]string{"--backend=cinder", "--node-id=n", "--max-volumes=-1"}, 1, "", "--max-volumes"},
		"no state directory": {[]string{"--state-dir="}, 1, "", "state directory"},
		"taint, no cluster":  {[]string{"--startup-taint-node=n"}, 1, "", "--startup-taint-node: KUBERNETES_SERVICE_HOST"},
		"bad driver name":    {[]string{"--driver-name=a_b"}, 1, "", "a_b"},
		"bad endpoint":       {[]string{"--endpoint=csi.sock"}, 1, "", "csi.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var stdout, stderr bytes.Buffer
			args := append([]string{"--loop-dir=" + dir, "--state-dir=" + dir, "--endpoint=unix://" + filepath.Join(dir, "s")}, test.args...)
			if code := run(t.Context(), args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("stdout %q, stderr %q, want %q and %q", &stdout, &stderr, test.stdout, test.stderr)
			}
		})
	}
}

func TestSegments(t *testing.T) {
	var s segments
	for _, text := range []string{"rack=7", "a=b,c=d=e", "rack=8"} {
		if err := s.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if want := (segments{"rack": "8", "a": "b", "c": "d=e"}); !maps.Equal(s, want) {
		t.Errorf("%v, want %v", s, want)
	}
	for _, text := range []string{"", "=x", "x=", "a=b,", ",a=b"} {
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// The node plugin holds no credentials, and nothing that could use any.
func TestNoCloudSDK(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < 100 {
		t.Errorf("only %d dependencies: %v", len(deps), deps)
	}
	for _, dep := range deps {
		if strings.Contains(dep, "gophercloud") || strings.HasSuffix(dep, "growvol/pkg/cinder") || strings.Contains(dep, "growvol/pkg/cinder/") || strings.Contains(dep, "gcfg") {
			t.Errorf("the node plugin links %s", dep)
		}
	}
}

// The program over its socket: who it is, what the plugin as a whole can do,
// and that it serves the node's side alone.
func TestProgram(t *testing.T) {
	ctx := t.Context()
	conn, stop := program(t, []string{"--node-id=node-7"})
	identity, wait := csi.NewIdentityClient(conn), grpc.WaitForReady(true)
	info, err := identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, wait)
	if err != nil || info.GetName() != "loop.growvol.io" {
		t.Errorf("info %v, %v", info, err)
	}
	// The same set in each part of the plugin: controller service, topology,
	// expansion online and offline.
	caps, err := identity.GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
	if err != nil || len(caps.GetCapabilities()) != 4 {
		t.Errorf("plugin capabilities %v, %v", caps, err)
	}
	node, err := csi.NewNodeClient(conn).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil || node.GetNodeId() != "node-7" || len(node.GetAccessibleTopology().GetSegments()) != 1 {
		t.Errorf("node %v, %v", node, err)
	}
	_, err = csi.NewControllerClient(conn).ListVolumes(ctx, &csi.ListVolumesRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("the node plugin answers for the controller: %v", err)
	}
	stop()
}

// The same with the Cinder backend: the names that PersistentVolumes of
// cinder-csi-plugin go by.
func TestProgramWithCinder(t *testing.T) {
	for _, c := range []struct {
		name         string
		args         []string
		topology     map[string]string
		limit        int64 // 0: whatever was found out
		capabilities int
	}{
		{
			"topology",
			[]string{"--zone=zone 1", "--additional-topology=rack=7", "--additional-topology=row=b"},
			map[string]string{"topology.cinder.csi.openstack.org/zone": "zone-1", "rack": "7", "row": "b"},
			0, 4,
		},
		{"no topology", []string{"--with-topology=false", "--additional-topology=rack=7", "--max-volumes=25"}, nil, 25, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, stop := program(t, append([]string{"--backend=cinder", "--node-id=server-7"}, c.args...))
			defer stop()
			identity := csi.NewIdentityClient(conn)
			info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
			if err != nil || info.GetName() != "cinder.csi.openstack.org" {
				t.Errorf("info %v, %v", info, err)
			}
			caps, err := identity.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
			if err != nil || len(caps.GetCapabilities()) != c.capabilities {
				t.Errorf("plugin capabilities %v, %v", caps, err)
			}
			node, err := csi.NewNodeClient(conn).NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
			if err != nil || node.GetNodeId() != "server-7" || !maps.Equal(node.GetAccessibleTopology().GetSegments(), c.topology) {
				t.Errorf("node %v, %v", node, err)
			}
			if got := node.GetMaxVolumesPerNode(); c.limit != 0 && got != c.limit || got < 1 {
				t.Errorf("%d volumes", got)
			}
		})
	}
}

// program runs the program; stop ends it and checks that it ends well.
func program(t *testing.T, args []string) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var stdout, stderr bytes.Buffer
	args = append([]string{"--endpoint=unix://" + filepath.Join(dir, "s"), "--loop-dir=" + dir, "--state-dir=" + dir}, args...)
	go func() { done <- run(ctx, args, &stdout, &stderr) }()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
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

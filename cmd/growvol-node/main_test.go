package main

import (
	"flag"
	"log/slog"
	"maps"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/programtest"
)

func TestCommandLine(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "") // it may run in a pod
	programtest.CheckCommandLines(t, newProgram, []string{"--loop-dir", "--state-dir"}, map[string]programtest.CommandLine{
		"help":               {Args: []string{"--help"}, Stderr: "-state-dir"},
		"unknown filesystem": {Args: []string{"--default-fstype=ntfs"}, ExitCode: 1, Stderr: "--default-fstype"},
		"no node":            {Args: []string{"--node-id="}, ExitCode: 2, Stderr: "-node-id"},
		"bad topology":       {Args: []string{"--additional-topology=rack"}, ExitCode: 2, Stderr: "not key=value"},
		"zone of no use": {
			Args:     []string{"--backend=cinder", "--node-id=n", "--zone=///"},
			ExitCode: 1, Stderr: "--zone",
		},
		"negative reserve": {
			Args:     []string{"--backend=cinder", "--node-id=n", "--reserved-volumes=-1"},
			ExitCode: 1, Stderr: "--reserved-volumes is negative",
		},
		"limit and reserve": {
			Args:     []string{"--backend=cinder", "--node-id=n", "--reserved-volumes=1", "--max-volumes=5"},
			ExitCode: 1, Stderr: "set only one of the two",
		},
		"negative limit": {
			Args:     []string{"--backend=cinder", "--node-id=n", "--max-volumes=-1"},
			ExitCode: 1, Stderr: "--max-volumes",
		},
		"no clusters": {Args: []string{"--backend=rbd"}, ExitCode: 1, Stderr: "set --ceph-config"},
		"no CRUSH location": {
			Args:     []string{"--backend=rbd", "--ceph-config=x", "--crush-location=a"},
			ExitCode: 1, Stderr: `"a" is not type:name`,
		},
		"negative limit, rbd": {
			Args:     []string{"--backend=rbd", "--ceph-config=x", "--max-volumes=-1"},
			ExitCode: 1, Stderr: "--max-volumes",
		},
		"no state directory": {Args: []string{"--state-dir="}, ExitCode: 1, Stderr: "state directory"},
		"taint, no cluster": {
			Args:     []string{"--startup-taint-node=n"},
			ExitCode: 1, Stderr: "--startup-taint-node: KUBERNETES_SERVICE_HOST",
		},
	})
}

func TestTopologyFlagMergesSegments(t *testing.T) {
	var c config
	for _, text := range []string{"rack=7", "a=b,c=d=e", "rack=8"} {
		if err := c.addTopology(text); err != nil {
			t.Fatal(err)
		}
	}
	if want := (volume.Topology{"rack": "8", "a": "b", "c": "d=e"}); !maps.Equal(c.topology, want) {
		t.Errorf("got topology %v, want %v", c.topology, want)
	}
	for _, text := range []string{"", "=x", "x=", "a=b,", ",a=b"} {
		if err := c.addTopology(text); err == nil {
			t.Errorf("%q: got success, want an error", text)
		}
	}
}

// The services get what the command line says, and the stop waits for what they detach.
func TestOptionsFollowCommandLine(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	for _, grow := range []bool{true, false} {
		var c config
		fs := flag.NewFlagSet("growvol-node", flag.ContinueOnError)
		c.register(fs)
		err := fs.Parse([]string{
			"--node-id=n", "--loop-dir=" + dir, "--state-dir=" + dir, "--default-fstype=xfs", "--require-shared-mounts",
			"--grow-on-device-change=" + strconv.FormatBool(grow),
		})
		if err != nil {
			t.Fatal(err)
		}
		opts, err := nodeOptions(c, log)
		if err != nil || opts.StateDir != dir || opts.DefaultFSType != filesystem.TypeXFS || !opts.RequireShared {
			t.Fatalf("got node options %+v, %v, want those of the command line", opts, err)
		}
		backend, err := newBackend(t.Context(), c, log)
		if err != nil {
			t.Fatal(err)
		}
		options, err := newOptions(t.Context(), c, opts, backend, "a.io")
		if err != nil {
			t.Fatal(err)
		}
		if options.Detached == nil || options.Detached != opts.Detached {
			t.Errorf("got detached work %p, want that of the node service %p", options.Detached, opts.Detached)
		}
		if got := options.Stopping != nil; got != grow {
			t.Fatalf("got Stopping %t, want %t", got, grow)
		}
		if grow {
			options.Stopping(t.Context())
		}
	}
}

// The node plugin links nothing of the controller: it holds no credentials, and no code
// that could use any.
func TestNodeLinksNothingOfTheController(t *testing.T) {
	programtest.CheckDependencies(t,
		`gophercloud|gcfg|go-ceph|growvol/pkg/((cinder|controller)(/|$)|(loop|rbd)$|rbd/internal)`)
}

// The program over its socket: who it is, what the plugin as a whole can do, and that
// it serves the node's side alone.
func TestProgramServesIdentityAndNode(t *testing.T) {
	ctx := t.Context()
	conn, stop := startProgram(t, []string{"--node-id=node-7"})
	identity, wait := csi.NewIdentityClient(conn), grpc.WaitForReady(true)
	info, err := identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, wait)
	if err != nil || info.GetName() != "loop.growvol.io" {
		t.Errorf("info %v, %v", info, err)
	}
	// The same set in each part of the plugin: controller service, topology, expansion
	// online and offline.
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
func TestProgramWithCinderReportsTopologyAndLimit(t *testing.T) {
	for _, c := range []struct {
		name         string
		args         []string
		topology     map[string]string
		limit        int64 // 0: any that was found out
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
			conn, stop := startProgram(t, append([]string{"--backend=cinder", "--node-id=server-7"}, c.args...))
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
			if err != nil || node.GetNodeId() != "server-7" ||
				!maps.Equal(node.GetAccessibleTopology().GetSegments(), c.topology) {
				t.Errorf("node %v, %v", node, err)
			}
			if got := node.GetMaxVolumesPerNode(); c.limit != 0 && got != c.limit || got < 1 {
				t.Errorf("%d volumes", got)
			}
		})
	}
}

// startProgram runs the program; stop ends it and checks that it ends well.
func startProgram(t *testing.T, args []string) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	dir := programtest.SocketDir(t)
	endpoint := "unix://" + filepath.Join(dir, "s")
	args = append([]string{"--endpoint=" + endpoint, "--loop-dir=" + dir, "--state-dir=" + dir}, args...)
	return programtest.Start(t, newProgram(), endpoint, args...)
}

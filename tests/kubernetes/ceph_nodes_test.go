package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/ceph"
	"github.com/growvol/growvol/tests/guest"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// This file connects the cluster with a real Ceph: nodes whose kernel has its client, and growvol.

// cephVariable is the environment variable with the directory of a running Ceph.
const cephVariable = "GROWVOL_CEPH_DIR"

// cephRelease is the Helm release of growvol for Ceph.
const cephRelease = "growvol-rbd"

// cephCluster is the cluster with nodes that reach Ceph, and with growvol for its images.
type cephCluster struct {
	*ceph.Rig
	nodes map[string]*ceph.Node
}

// connectCeph connects the networks of the cluster and of Ceph, boots two nodes and installs
// growvol for Ceph. The end of the test undoes all of it.
func connectCeph(t *testing.T) cephCluster {
	t.Helper()
	skipWithoutCluster(t)
	dir := os.Getenv(cephVariable)
	if dir == "" {
		t.Skipf("%s is not set (next step: run `make cluster-ceph-test`, which starts a Ceph)", cephVariable)
	}
	start := time.Now()
	progress := func(what string) { t.Logf("%s after %.0f s", what, time.Since(start).Seconds()) }
	c := cephCluster{
		Rig:   ceph.Open(dir, filepath.Join(moduleRoot(t), "tests", "ceph")),
		nodes: map[string]*ceph.Node{},
	}
	// A killed run may have left its growvol and its nodes.
	_, err := runInCluster(t.Context(), "",
		"helm", "uninstall", cephRelease, "--namespace", cephRelease, "--ignore-not-found", "--wait")
	must.Succeed(t, err)
	linkNetworks(t)
	c.bootNodes(t)
	progress("the nodes are ready")
	c.install(t)
	progress("growvol is installed")
	return c
}

// linkNetworks connects the network namespace of the cluster with that of Ceph, in which this process
// runs. A node reaches the API server at its own address, and pods reach Ceph.
func linkNetworks(t *testing.T) {
	t.Helper()
	const device, peer = "to-cluster", "to-ceph"
	cluster, err := clusterNetwork(os.Getenv(clusterVariable))
	must.Succeed(t, err)
	ip := func(run func(context.Context, string) error, lines ...string) {
		t.Helper()
		for _, line := range lines {
			must.Succeed(t, run(t.Context(), line))
		}
	}
	here := func(ctx context.Context, line string) error { return runIP(ctx, strings.Fields(line)...) }
	there := func(ctx context.Context, line string) error {
		_, err := runInCluster(ctx, "", append([]string{"ip"}, strings.Fields(line)...)...)
		return err
	}
	_ = runIP(t.Context(), "link", "delete", device) // of a killed run
	t.Cleanup(func() {
		if err := runIP(context.WithoutCancel(t.Context()), "link", "delete", device); err != nil {
			t.Error(err)
		}
	})
	pid := filepath.Base(filepath.Dir(filepath.Dir(cluster.path)))
	ip(here,
		"link add "+device+" type veth peer name "+peer+" netns "+pid,
		"address add 10.78.0.1/30 dev "+device, "link set "+device+" up",
	)
	ip(there, "address add 10.78.0.2/30 dev "+peer, "link set "+peer+" up", "route replace 10.77.0.0/24 via 10.78.0.1")
	ip(here, "route replace 10.99.0.1/32 via 10.78.0.2", "route replace 10.88.0.0/16 via 10.78.0.2")
	must.Succeed(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)) //nolint:gosec // of this namespace
	_, err = runInCluster(t.Context(), "", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	must.Succeed(t, err)
}

package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	nodes map[string]*cephNode
}

// cephNode is a guest that is a node of the cluster.
type cephNode struct {
	*ceph.Node
	hasEnded bool // by end
}

// end ends the guest as a loss of power does, if it has not ended.
func (n *cephNode) end() error {
	if n.hasEnded {
		return nil
	}
	n.hasEnded = true
	return n.Kill()
}

// connectCeph connects the networks of the cluster and of Ceph, boots two nodes and installs
// growvol for Ceph. The end of the test undoes all of it. The nodes have the rig's images and the
// further images.
func connectCeph(t *testing.T, images ...string) cephCluster {
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
		nodes: map[string]*cephNode{},
	}
	must.Succeed(t, c.removeRemainders(t.Context())) // of a killed run
	progress("the remainders of an earlier run are removed")
	t.Cleanup(func() {
		if err := c.removeRemainders(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	linkNetworks(t)
	c.bootNodes(t, images)
	progress("the nodes are ready")
	c.install(t)
	progress("growvol is installed")
	return c
}

// removeRemainders removes growvol for Ceph with its namespace, the nodes and the images. The nodes
// are removed before the namespace, which waits for the pods of nodes that have ended.
func (c *cephCluster) removeRemainders(ctx context.Context) error {
	_, err := runInCluster(ctx, "",
		"helm", "uninstall", cephRelease, "--namespace", cephRelease, "--ignore-not-found", "--wait")
	if err != nil {
		return err
	}
	for _, objects := range [][]string{{"node", firstCephNode, secondCephNode}, {"namespace", cephRelease}} {
		args := append([]string{"delete", "--ignore-not-found", "--timeout=" + waitTimeout.String()}, objects...)
		if _, err := kubectl(ctx, args...); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	return c.Purge(ctx)
}

// linkNetworks connects the network namespace of the cluster with that of Ceph, in which this
// process runs. A node reaches the API server at its own address, and pods reach Ceph.
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
	inCeph := func(ctx context.Context, line string) error { return runIP(ctx, strings.Fields(line)...) }
	inCluster := func(ctx context.Context, line string) error {
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
	ip(inCeph,
		"link add "+device+" type veth peer name "+peer+" netns "+pid,
		"address add 10.78.0.1/30 dev "+device, "link set "+device+" up",
	)
	ip(inCluster, "address add 10.78.0.2/30 dev "+peer, "link set "+peer+" up", "route replace 10.77.0.0/24 via 10.78.0.1")
	ip(inCeph, "route replace 10.99.0.1/32 via 10.78.0.2", "route replace 10.88.0.0/16 via 10.78.0.2")
	must.Succeed(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)) //nolint:gosec // of this namespace
	_, err = runInCluster(t.Context(), "", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
	must.Succeed(t, err)
}

// runIP runs ip(8) in the network namespace of this process.
func runIP(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil { //nolint:gosec // constants
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// bootNodes boots two guests and makes them nodes of the cluster.
func (c *cephCluster) bootNodes(t *testing.T, images []string) {
	t.Helper()
	programs := filepath.Join(moduleRoot(t), "bin") // TestMain has built them
	var group errgroup.Group
	for i, name := range []string{firstCephNode, secondCephNode} {
		dir := c.makeNodeDir(t, name)
		node, err := c.Boot(t.Context(), ceph.NodeOptions{
			Number: i + 1, Programs: programs, Memory: 1536 * volume.MiB,
			Shares: []guest.Share{{Host: dir, Writable: true}},
		})
		must.Succeed(t, err)
		c.nodes[name] = &cephNode{Node: node}
		t.Cleanup(func() {
			if err := c.nodes[name].end(); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() error { return startCephNode(t, node, name, filepath.Join(dir, "disk"), images) })
	}
	must.Succeed(t, group.Wait())
	for name := range c.nodes { // the plugins of growvol read the label
		must.Value(kubectl(t.Context(), "label", "node", name, "topology.kubernetes.io/zone="+cephZone(name)))(t)
	}
}

// makeNodeDir makes an empty directory for the disk of a node. It is in the state of Ceph, so that
// a killed run leaves it where the next run or the end of Ceph removes it.
func (c *cephCluster) makeNodeDir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(c.Dir, "node-"+name)
	must.Succeed(t, os.RemoveAll(dir))
	must.Succeed(t, os.Mkdir(dir, 0o700))
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// startCephNode starts containerd and kubelet in a guest, from a disk at the path with the images.
func startCephNode(t *testing.T, guest *ceph.Node, name, disk string, images []string) error {
	t.Helper()
	ctx, state := t.Context(), os.Getenv(clusterVariable)
	args := []string{disk, name, guest.Address.String(), "10250", "10.99.0.1:443", rbdcsi.DriverName}
	if _, err := runScript(ctx, "", "node-disk", append(args, images...)...); err != nil {
		return err
	}
	script := `ip route replace default via 10.77.0.1
		mkdir -p "$0" && mount -o loop "$1" "$0" && exec "$0/guest-node" "$0"`
	process, err := guest.Start(ctx, vm.Command{Argv: []string{"sh", "-ec", script, state, disk}})
	if err != nil {
		return err
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute) // the guest may have ended
		defer cancel()
		log, err := process.Log(limited)
		t.Logf("end of the log of containerd and kubelet in %s (%v):\n%s", name, err, log[max(0, len(log)-10000):])
	})
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	return eventually(ctx, waitTimeout, func(ctx context.Context) error {
		if running, err := process.IsRunning(ctx); err == nil && !running {
			err := fmt.Errorf("kubelet of %s has ended", name)
			stop(err) // it does not come back
			return err
		}
		ready, err := kubectl(ctx, "get", "node", name,
			"-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
		if err == nil && ready != "True" {
			err = errors.New("the node is not ready")
		}
		return err
	})
}

// install installs growvol for the rig's Ceph on all nodes.
func (c *cephCluster) install(t *testing.T) {
	t.Helper()
	clusters := must.Value(os.ReadFile(filepath.Join(c.Dir, "config.json")))(t)
	values := filepath.Join(t.TempDir(), "values.yaml")
	must.Succeed(t, os.WriteFile(values, fmt.Appendf(nil, `rbd:
  clusters: %s
  domainLabels: [topology.kubernetes.io/zone]
  crushLocationLabels: [topology.kubernetes.io/zone]
storageClasses:
  - name: rbd-ext4
    parameters: {clusterID: %[2]s, pool: %[3]s, csi.storage.k8s.io/fstype: ext4}
    volumeBindingMode: Immediate
  - name: rbd-xfs
    parameters: {clusterID: %[2]s, pool: %[3]s, csi.storage.k8s.io/fstype: xfs}
    volumeBindingMode: Immediate
  - {name: rbd-quota, parameters: {clusterID: %[2]s, pool: %[4]s}, volumeBindingMode: Immediate}
  - name: rbd-zones
    parameters:
      clusterID: %[2]s
      topologyConstrainedPools: |
        [{"poolName": "%[3]s", "domainSegments": [{"domainLabel": "zone", "value": "zone-1"}]},
         {"poolName": "%[5]s", "domainSegments": [{"domainLabel": "zone", "value": "zone-2"}]}]
volumeSnapshotClasses:
  - {name: rbd}
volumeGroupSnapshotClasses:
  - {name: rbd}
volumeAttributesClasses:
  - {name: rbd-limited, parameters: {maxReadIops: "1000", maxWriteIops: "500"}}
  - {name: rbd-slower, parameters: {maxWriteBps: "1048576"}}
`, clusters, ceph.Cluster, ceph.Pool, ceph.SmallPool, ceph.OtherPool), 0o600))
	keys := filepath.Join(c.Dir, "keys")
	user := must.Value(os.ReadFile(filepath.Join(keys, "userID")))(t)
	key := must.Value(os.ReadFile(filepath.Join(keys, "userKey")))(t)
	manifest := fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: v1
kind: Secret
metadata: {name: ceph-keys, namespace: %[1]s}
stringData: {userID: %[2]q, userKey: %[3]q}
`, cephRelease, strings.TrimSpace(string(user)), strings.TrimSpace(string(key)))
	_, err := runInCluster(t.Context(), manifest, "kubectl", "apply", "-f", "-")
	must.Succeed(t, err)
	t.Cleanup(func() {
		if _, err := runScript(context.WithoutCancel(t.Context()), "", "growvol", "uninstall-rbd"); err != nil {
			t.Error(err)
		}
	})
	_, err = runScript(t.Context(), "", "growvol", "install-rbd", values, "ceph1", "ceph2")
	must.Succeed(t, err)
}

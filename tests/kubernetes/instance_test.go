package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// openstackVariable is the environment variable with the directory of a running
// OpenStack.
const openstackVariable = "GROWVOL_OPENSTACK_DIR"

const (
	// cinderRelease is the Helm release of growvol for Cinder.
	cinderRelease = "growvol-cinder"
	// instanceName is the name of the instance and of its node, guestKind the node's
	// kind.
	instanceName, guestKind = "nova1", "guest"
	// The addresses in the cluster's network namespace at which it reaches the
	// instance's kubelet and OpenStack.
	instanceIP, cloudIP = "10.99.0.2", "10.99.0.3"
	kubeletPort         = 10260
	// gatewayIP is the address at which the instance reaches this machine.
	gatewayIP = "10.0.2.2"
)

// cloudCluster is the cluster with a node that is a Nova instance and with growvol
// for the Cinder volumes of that cloud.
type cloudCluster struct {
	*openstack.Rig
	instance *openstack.Instance
}

// connectCloud connects the cluster and the cloud, boots the instance, makes it a
// node and installs growvol for Cinder. The end of the test undoes all of it. The
// node has the rig's images and the further images.
func connectCloud(t *testing.T, images ...string) cloudCluster {
	t.Helper()
	skipWithoutCluster(t)
	dir := os.Getenv(openstackVariable)
	if dir == "" {
		t.Skipf("%s is not set (next step: run `make cluster-openstack-test`, which brings up an OpenStack)",
			openstackVariable)
	}
	ctx := t.Context()
	start := time.Now()
	progress := func(what string) { t.Logf("%s after %.0f s", what, time.Since(start).Seconds()) }
	rig, err := openstack.Open(ctx, dir, "csi")
	must.Succeed(t, err)
	limited, cancel := context.WithTimeout(ctx, waitTimeout) // a killed run may have left much
	defer cancel()
	must.Succeed(t, rig.User.Purge(limited))
	must.Succeed(t, rig.Admin.SetQuota(ctx, rig.User.Project, 100, 100))
	c := cloudCluster{Rig: rig}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), waitTimeout)
		defer cancel()
		if err := rig.User.Purge(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})

	cluster, err := clusterNetwork(os.Getenv(clusterVariable))
	must.Succeed(t, err)
	for _, address := range []string{instanceIP, cloudIP} {
		_, err := runInCluster(ctx, "", "ip", "address", "replace", address+"/32", "dev", "lo")
		must.Succeed(t, err)
		t.Cleanup(func() {
			_, err := runInCluster(context.WithoutCancel(ctx), "", "ip", "address", "delete", address+"/32", "dev", "lo")
			if err != nil {
				t.Error(err)
			}
		})
	}
	// A killed run may have left its growvol, which would remove the taint of the new
	// node, and its node, which has the new one's name.
	_, err = runInCluster(ctx, "",
		"helm", "uninstall", cinderRelease, "--namespace", cinderRelease, "--ignore-not-found", "--wait")
	must.Succeed(t, err)
	_, err = kubectl(ctx, "delete", "node", instanceName, "--ignore-not-found")
	must.Succeed(t, err)
	var machine network
	for _, port := range []int{5000, 8774, 8776} { // Keystone, Nova, Cinder
		cluster.forward(t, fmt.Sprintf("%s:%d", cloudIP, port), machine.dial(fmt.Sprintf("127.0.0.1:%d", port)))
	}
	api := machine.forward(t, "127.0.0.1:0", cluster.dial("127.0.0.1:443"))

	c.boot(t, api, images)
	progress("the instance has booted")
	cluster.forward(t, fmt.Sprintf("%s:%d", instanceIP, kubeletPort), machine.dial(c.instance.Address(kubeletPort)))
	c.startNode(t)
	progress("the instance is a node")
	c.install(t)
	progress("growvol is installed")
	return c
}

// boot boots the instance with the disk of a node, which reaches the API server at
// the address api of this machine.
func (c *cloudCluster) boot(t *testing.T, api string, images []string) {
	t.Helper()
	ctx := t.Context()
	_, port, err := net.SplitHostPort(api)
	must.Succeed(t, err)
	disk := filepath.Join(t.TempDir(), "disk")
	args := []string{
		disk, instanceName, instanceIP, fmt.Sprint(kubeletPort), net.JoinHostPort(gatewayIP, port), cindercsi.DriverName,
	}
	_, err = runScript(ctx, "", "node-disk", append(args, images...)...)
	must.Succeed(t, err)
	// containerd and kubelet execute these.
	programs := map[string]string{}
	for _, path := range []string{
		"/usr/sbin/runc", "/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/usr/sbin/losetup",
	} {
		programs[path] = path
	}
	image, err := vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{
		Programs: programs, Modules: []string{"bridge", "veth"},
	})
	must.Succeed(t, err)
	c.instance, err = c.Boot(ctx, openstack.Options{
		Name: instanceName, Image: image, Bus: openstack.BusVirtioBlk, Flavor: openstack.FlavorNode,
		Disk: disk, Ports: []int{kubeletPort},
	})
	must.Succeed(t, err)
}

// startNode starts containerd and kubelet in the instance.
func (c *cloudCluster) startNode(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	state := os.Getenv(clusterVariable)
	script := `mkdir -p "$0" && mount /dev/vda "$0" && exec "$0/guest-node" "$0"`
	node, err := c.instance.Start(ctx, vm.Command{Argv: []string{"sh", "-c", script, state}})
	must.Succeed(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		limited, cancel := context.WithTimeout(ctx, waitTimeout) // the instance may hang
		defer cancel()
		log, err := node.Log(limited)
		for line := range strings.Lines(log) {
			if strings.HasPrefix(line, "guest-node: ") {
				t.Log(strings.TrimSpace(line))
			}
		}
		if t.Failed() {
			t.Logf("end of the log of containerd and kubelet in the instance (%v):\n%s",
				err, log[max(0, len(log)-10000):])
		}
		if _, err := kubectl(ctx, "delete", "node", instanceName, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	must.Succeed(t, eventually(ctx, 2*waitTimeout, func(ctx context.Context) error {
		if running, err := node.IsRunning(ctx); err != nil || !running {
			t.Fatalf("the node has ended (%v)", err)
		}
		ready, err := kubectl(ctx, "get", "node", instanceName,
			"-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
		if err == nil && ready != "True" {
			err = errors.New("the node is not ready")
		}
		return err
	}))
}

// install installs growvol for Cinder. The node starts with the taint that new nodes
// of autoscaled clusters have; growvol removes the taint.
func (c *cloudCluster) install(t *testing.T) {
	t.Helper()
	values := filepath.Join(t.TempDir(), "values.yaml")
	must.Succeed(t, os.WriteFile(values, fmt.Appendf(nil, `cinder:
  cloudsYAML: |
    clouds:
      openstack:
        region_name: RegionOne
        volume_endpoint_override: http://%[1]s:8776/v3/%%(project_id)s
        compute_endpoint_override: http://%[1]s:8774/v2.1
        auth:
          auth_url: http://%[1]s:5000/v3
          username: csi
          password: secret
          project_name: csi
          user_domain_name: Default
          project_domain_name: Default
`, cloudIP), 0o600))
	t.Cleanup(func() {
		if _, err := runScript(context.WithoutCancel(t.Context()), "", "growvol", "uninstall-cinder"); err != nil {
			t.Error(err)
		}
	})
	taints := func(ctx context.Context) string {
		out, err := kubectl(ctx, "get", "node", instanceName, "-o", "jsonpath={.spec.taints[*].key}")
		must.Succeed(t, err)
		return out
	}
	const taint = "cinder.csi.openstack.org/agent-not-ready"
	if got := taints(t.Context()); !strings.Contains(got, taint) {
		t.Errorf("got the taints %q on the new node, want %s", got, taint)
	}
	_, err := runScript(t.Context(), "", "growvol", "install-cinder", values, instanceName)
	must.Succeed(t, err)
	must.Succeed(t, eventually(t.Context(), waitTimeout, func(ctx context.Context) error {
		if got := taints(ctx); strings.Contains(got, taint) || !strings.Contains(got, nodeKindLabel) {
			return fmt.Errorf("got the taints %q with a registered driver, want %s and not %s", got, nodeKindLabel, taint)
		}
		return nil
	}))
}

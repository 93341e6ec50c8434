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

	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// openstackVariable names the directory of a running OpenStack.
const openstackVariable = "GROWVOL_OPENSTACK_DIR"

const (
	// release is that of growvol for Cinder.
	release = "growvol-cinder"
	// instance is the name of the node, and its kind.
	instance, guestKind = "nova1", "guest"
	// Addresses of the cluster's network namespace: the instance's, whose
	// kubelet is reached there, and OpenStack's.
	instanceIP, cloudIP = "10.99.0.2", "10.99.0.3"
	kubeletPort         = 10260
	// gatewayIP is this machine as the instance sees it.
	gatewayIP = "10.0.2.2"
)

// cloudCluster is the cluster with a node that is a Nova instance, and with
// growvol for the Cinder volumes of that cloud.
type cloudCluster struct {
	*openstack.Rig
	instance *openstack.Instance
}

// joinCloud makes the cluster and the cloud reach each other, boots the
// instance, makes it a node and installs growvol for Cinder. All of it is
// undone at the end of the test. The node has the rig's images, and these.
func joinCloud(t *testing.T, images ...string) cloudCluster {
	t.Helper()
	needCluster(t)
	dir := os.Getenv(openstackVariable)
	if dir == "" {
		t.Skipf("%s does not name a running OpenStack; `make cluster-openstack-test` brings one up and tests with it", openstackVariable)
	}
	ctx := t.Context()
	start := time.Now()
	progress := func(what string) { t.Logf("%s after %.0f s", what, time.Since(start).Seconds()) }
	rig, err := openstack.Open(ctx, dir, "csi")
	check(t, err)
	limited, cancel := context.WithTimeout(ctx, patience) // much may be left of a run that was killed
	defer cancel()
	check(t, rig.User.Purge(limited))
	check(t, rig.Admin.SetQuota(ctx, rig.User.Project, 100, 100))
	c := cloudCluster{Rig: rig}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if err := rig.User.Purge(ctx); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})

	cluster, err := clusterNetwork(os.Getenv(clusterVariable))
	check(t, err)
	for _, address := range []string{instanceIP, cloudIP} {
		_, err := in(ctx, "", "ip", "address", "replace", address+"/32", "dev", "lo")
		check(t, err)
		t.Cleanup(func() {
			if _, err := in(context.WithoutCancel(ctx), "", "ip", "address", "delete", address+"/32", "dev", "lo"); err != nil {
				t.Error(err)
			}
		})
	}
	// Of a run that was killed: its node would be taken for this one's, and its
	// growvol would take the taint from this one's.
	_, err = in(ctx, "", "helm", "uninstall", release, "--namespace", release, "--ignore-not-found", "--wait")
	check(t, err)
	_, err = kubectl(ctx, "delete", "node", instance, "--ignore-not-found")
	check(t, err)
	var here network
	for _, port := range []int{5000, 8774, 8776} { // Keystone, Nova, Cinder
		cluster.forward(t, fmt.Sprintf("%s:%d", cloudIP, port), here.dial(fmt.Sprintf("127.0.0.1:%d", port)))
	}
	api := here.forward(t, "127.0.0.1:0", cluster.dial("127.0.0.1:443"))

	c.boot(t, api, images)
	progress("the instance has booted")
	cluster.forward(t, fmt.Sprintf("%s:%d", instanceIP, kubeletPort), here.dial(c.instance.Address(kubeletPort)))
	c.startNode(t)
	progress("it is a node")
	c.install(t)
	progress("growvol is installed")
	return c
}

// boot boots the instance, with the disk of a node that reaches the API server
// at the address of this machine.
func (c *cloudCluster) boot(t *testing.T, api string, images []string) {
	t.Helper()
	ctx := t.Context()
	_, port, err := net.SplitHostPort(api)
	check(t, err)
	disk := filepath.Join(t.TempDir(), "disk")
	args := append([]string{disk, instance, instanceIP, fmt.Sprint(kubeletPort), net.JoinHostPort(gatewayIP, port)}, images...)
	_, err = program(ctx, "", "guest-disk", args...)
	check(t, err)
	// What containerd and kubelet execute.
	programs := map[string]string{}
	for _, path := range []string{"/usr/sbin/runc", "/usr/lib/cni/bridge", "/usr/lib/cni/host-local", "/usr/sbin/losetup"} {
		programs[path] = path
	}
	image, err := vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{
		Programs: programs, Modules: []string{"bridge", "veth"},
		Packages: []string{"github.com/growvol/growvol/tests/forward/cmd/growvol-forward"},
	})
	check(t, err)
	c.instance, err = c.Boot(ctx, openstack.Options{
		Name: instance, Image: image, Bus: openstack.VirtioBlk, Flavor: openstack.FlavorNode, Disk: disk, Ports: []int{kubeletPort},
	})
	check(t, err)
}

// startNode starts containerd and kubelet in the instance.
func (c *cloudCluster) startNode(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	state := os.Getenv(clusterVariable)
	node, err := c.instance.Start(ctx, vm.Command{Argv: []string{"sh", "-c", `mkdir -p "$0" && mount /dev/vda "$0" && exec "$0/guest" "$0"`, state}})
	check(t, err)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		limited, cancel := context.WithTimeout(ctx, patience) // the instance may hang
		defer cancel()
		log, err := node.Log(limited)
		for line := range strings.Lines(log) {
			if strings.HasPrefix(line, "guest: ") {
				t.Log(strings.TrimSpace(line))
			}
		}
		if t.Failed() {
			t.Logf("end of the log of containerd and kubelet in the instance (%v):\n%s", err, log[max(0, len(log)-10000):])
		}
		if _, err := kubectl(ctx, "delete", "node", instance, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	check(t, eventually(ctx, 2*patience, func(ctx context.Context) error {
		if running, err := node.IsRunning(ctx); err != nil || !running {
			t.Fatalf("the node has ended (%v)", err)
		}
		ready, err := kubectl(ctx, "get", "node", instance, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
		if err == nil && ready != "True" {
			err = errors.New("the node is not ready")
		}
		return err
	}))
}

// install installs growvol for Cinder. The node has the taint with which nodes
// of clusters that grow by themselves start, and loses it by growvol.
func (c *cloudCluster) install(t *testing.T) {
	t.Helper()
	values := filepath.Join(t.TempDir(), "values.yaml")
	check(t, os.WriteFile(values, fmt.Appendf(nil, `cinder:
  cloudsYAML: |
    clouds:
      openstack:
        region_name: RegionOne
        volume_endpoint_override: http://%[1]s:8776/v3/%%(project_id)s
        compute_endpoint_override: http://%[1]s:8774/v2.1
        auth: {auth_url: "http://%[1]s:5000/v3", username: csi, password: secret, project_name: csi, user_domain_name: Default, project_domain_name: Default}
`, cloudIP), 0o600))
	t.Cleanup(func() {
		if _, err := program(context.WithoutCancel(t.Context()), "", "growvol", "uninstall-cinder"); err != nil {
			t.Error(err)
		}
	})
	taints := func(ctx context.Context) string {
		out, err := kubectl(ctx, "get", "node", instance, "-o", "jsonpath={.spec.taints[*].key}")
		check(t, err)
		return out
	}
	const taint = "cinder.csi.openstack.org/agent-not-ready"
	if has := taints(t.Context()); !strings.Contains(has, taint) {
		t.Errorf("the node starts with the taints %q", has)
	}
	_, err := program(t.Context(), "", "growvol", "install-cinder", values, instance)
	check(t, err)
	check(t, eventually(t.Context(), patience, func(ctx context.Context) error {
		if has := taints(ctx); strings.Contains(has, taint) || !strings.Contains(has, nodeKind) {
			return fmt.Errorf("the driver is registered, and the node has the taints %q", has)
		}
		return nil
	}))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/growvol/growvol/tests/co"
	"github.com/growvol/growvol/tests/vm"
)

// The buses on which guests see their disks.
const (
	virtioBlk  = "virtio"
	virtioSCSI = "scsi"
)

// flavor is the smallest of the rig's flavors that holds the guest's initial
// RAM filesystem: 512 MiB.
const flavor = "2"

// guest is a Nova instance in which the node plugin runs.
type guest struct {
	*vm.Agent
	*co.Driver // the controller on this machine, the node in the guest

	server      string // id
	nodeAddress string // of this machine, leading to the node plugin
	plugin      *vm.Process
}

// guest returns the guest with disks on this bus. All are booted on first use,
// at the same time, and shared by all parts of the test.
func (r *rig) guest(t *testing.T, bus string) *guest {
	t.Helper()
	if len(r.guests) == 0 {
		start := time.Now()
		r.boot(t, virtioBlk, virtioSCSI)
		t.Logf("the guests have booted in %s", time.Since(start).Round(time.Millisecond))
	}
	g := r.guests[bus]
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		log, err := g.plugin.Log(context.WithoutCancel(t.Context()))
		t.Logf("end of the log of growvol-node (%v):\n%s", err, log[max(0, len(log)-6000):])
	})
	return g
}

// boot boots a server for each bus and starts the node plugin in it.
func (r *rig) boot(t *testing.T, buses ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	image := get(vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{Packages: []string{"github.com/growvol/growvol/tests/vm/writer"}}))(t)
	booted := make([]*guest, len(buses))
	for i, bus := range buses {
		opts := servers.CreateOpts{Name: "guest-" + bus, ImageRef: r.image(t, image, bus), FlavorRef: flavor, Networks: "none", ConfigDrive: new(true)}
		booted[i] = &guest{server: get(servers.Create(ctx, r.user.compute, opts, nil).Extract())(t).ID}
	}
	for i, bus := range buses {
		g := booted[i]
		must(t, eventually(ctx, "server "+bus+" is active", func(ctx context.Context) (bool, error) {
			s, err := servers.Get(ctx, r.user.compute, g.server).Extract()
			if err == nil && s.Status == "ERROR" {
				return false, fmt.Errorf("server %s: %s", bus, s.Fault.Message)
			}
			return err == nil && s.Status == "ACTIVE", err
		}))
		ports := r.plugNetwork(t, g.server)
		g.Agent, g.nodeAddress = vm.Dial(ports[0], ports[1]), ports[1]
	}
	for i, bus := range buses {
		_, _, err := booted[i].Await(ctx)
		must(t, err)
		r.startNode(t, booted[i])
		r.guests[bus] = booted[i]
	}
}

// image returns the id of the image as Nova boots it with disks on a bus,
// registering it if it is new.
func (r *rig) image(t *testing.T, built vm.Image, bus string) string {
	t.Helper()
	ctx := t.Context()
	title := "growvol-" + built.Key + "-" + bus
	if id := get(r.user.image(ctx, title))(t); id != "" {
		return id
	}
	out, err := exec.CommandContext(ctx, filepath.Join(r.here, "image"), title, built.Kernel, built.Initrd, bus).CombinedOutput() //nolint:gosec // our own program
	if err != nil {
		t.Fatalf("register the guests' image: %v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// plugNetwork gives the server a network interface behind Nova's back: one in
// QEMU's user mode, which leads two addresses of this machine to the agent and
// to the node plugin. It returns these addresses.
func (r *rig) plugNetwork(t *testing.T, server string) [2]string {
	t.Helper()
	domain := get(servers.Get(t.Context(), r.admin.compute, server).Extract())(t).InstanceName
	addresses := [2]string{freeAddress(t), freeAddress(t)}
	monitor := func(command string) {
		uri := "qemu+unix:///system?socket=" + filepath.Join(r.dir, "run/libvirt/libvirt-sock")
		out, err := exec.CommandContext(t.Context(), "virsh", "-c", uri, "qemu-monitor-command", domain, "--hmp", command).CombinedOutput() //nolint:gosec // fixed program
		if err != nil || strings.TrimSpace(string(out)) != "" {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	monitor("netdev_add user,id=tests")
	for i, port := range []int{vm.AgentPort, vm.NodePort} {
		monitor(fmt.Sprintf("hostfwd_add tests tcp:%s-:%d", addresses[i], port))
	}
	// libvirt does not know of it: the last slot is the last that it would use.
	monitor("device_add virtio-net-pci,netdev=tests,id=tests-nic,mac=52:54:00:12:34:56,addr=0x1f")
	return addresses
}

// freeAddress returns an address of this machine at which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l := get(new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0"))(t)
	address := l.Addr().String()
	must(t, l.Close())
	return address
}

// startNode starts the node plugin, which finds out by itself which server it
// runs in, and connects to it.
func (r *rig) startNode(t *testing.T, g *guest) {
	t.Helper()
	ctx := t.Context()
	g.plugin = get(g.Start(ctx, vm.Command{Argv: []string{
		"growvol-node", "--backend=cinder", "--endpoint=unix://" + vm.NodeSocket, "--log-level=debug",
	}}))(t)
	conn := get(g.DialNode())(t)
	g.Driver = &co.Driver{Controller: r.client(), Node: csi.NewNodeClient(conn), Dir: "/var/lib/kubelet/plugins"}
	err := eventually(ctx, "the node plugin answers", func(ctx context.Context) (bool, error) {
		if running, err := g.plugin.Running(ctx); err != nil || !running {
			return false, errors.Join(errors.New("the node plugin has ended"), err)
		}
		conn.ResetConnectBackoff()
		info, err := g.Node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
		g.NodeID = info.GetNodeId()
		return err == nil, nil
	})
	if err != nil {
		log, logErr := g.plugin.Log(ctx)
		t.Fatalf("%v\n%s %v", err, log, logErr)
	}
	if g.NodeID != g.server {
		t.Fatalf("the node plugin says that it runs in server %q; it is %s", g.NodeID, g.server)
	}
}

// sh runs a shell script in the guest and returns its output.
func (g *guest) sh(t *testing.T, script string) string {
	t.Helper()
	return strings.TrimSpace(get(g.Run(t.Context(), vm.Command{Argv: []string{"sh", "-c", script}}))(t))
}

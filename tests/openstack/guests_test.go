package openstack_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// guest is a Nova instance in which the node plugin runs.
type guest struct {
	*openstack.Instance
	*csiclient.Driver // the controller on this machine, the node in the guest

	plugin *vm.Process
}

// guest returns the guest with disks on this bus. All are booted on first use,
// at the same time, and shared by all parts of the test.
func (r *rig) guest(t *testing.T, bus openstack.Bus) *guest {
	t.Helper()
	if len(r.guests) == 0 {
		start := time.Now()
		r.boot(t, openstack.VirtioBlk, openstack.VirtioSCSI)
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
func (r *rig) boot(t *testing.T, buses ...openstack.Bus) {
	t.Helper()
	ctx := limited(t)
	image := get(vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{Packages: []string{"github.com/growvol/growvol/tests/vm/writer"}}))(t)
	disk := markedDisk(t)
	booted, errs := make([]*openstack.Instance, len(buses)), make([]error, len(buses))
	var wg sync.WaitGroup
	for i, bus := range buses {
		o := openstack.Options{
			Name: "guest-" + string(bus), Image: image, Bus: bus, Flavor: openstack.FlavorMedium, Disk: disk, Ports: []int{greeterPort},
		}
		wg.Go(func() { booted[i], errs[i] = r.Boot(ctx, o) })
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	for i, bus := range buses {
		g := &guest{Instance: booted[i]}
		r.startNode(t, g)
		r.guests[bus] = g
	}
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
	g.Driver = &csiclient.Driver{Controller: r.client(), Node: csi.NewNodeClient(conn), Dir: "/var/lib/kubelet/plugins"}
	err := openstack.Eventually(ctx, "the node plugin answers", func(ctx context.Context) (bool, error) {
		if running, err := g.plugin.IsRunning(ctx); err != nil || !running {
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
	if g.NodeID != g.ID {
		t.Fatalf("the node plugin says that it runs in server %q; it is %s", g.NodeID, g.ID)
	}
}

// sh runs a shell script in the guest and returns its output.
func (g *guest) sh(t *testing.T, script string) string {
	t.Helper()
	return strings.TrimSpace(get(g.Run(t.Context(), vm.Command{Argv: []string{"sh", "-c", script}, Timeout: 10 * time.Minute}))(t))
}

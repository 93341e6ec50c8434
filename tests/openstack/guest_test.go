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
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
	"github.com/growvol/growvol/tests/vm"
)

// guest is a Nova instance in which the node plugin runs.
type guest struct {
	*openstack.Instance
	*csiclient.Driver // the controller on this machine, the node in the guest

	plugin *vm.Process
}

// guest returns the guest whose disks are on this bus. The first call boots all guests
// concurrently; all parts of the test share them.
func (r *rig) guest(t *testing.T, bus openstack.Bus) *guest {
	t.Helper()
	if len(r.guests) == 0 {
		start := time.Now()
		r.boot(t, openstack.BusVirtioBlk, openstack.BusVirtioSCSI)
		t.Logf("the guests booted in %s", time.Since(start).Round(time.Millisecond))
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
	ctx := testContext(t)
	packages := []string{"github.com/growvol/growvol/tests/vm/writer"}
	image := must.Value(vm.BuildImage(ctx, t.TempDir(), vm.ImageOptions{Packages: packages}))(t)
	disk := newRootDisk(t)
	booted, errs := make([]*openstack.Instance, len(buses)), make([]error, len(buses))
	var wg sync.WaitGroup
	for i, bus := range buses {
		o := openstack.Options{
			Name:   "guest-" + string(bus),
			Image:  image,
			Bus:    bus,
			Flavor: openstack.FlavorMedium,
			Disk:   disk,
			Ports:  []int{greeterPort},
		}
		wg.Go(func() { booted[i], errs[i] = r.Boot(ctx, o) })
	}
	wg.Wait()
	must.Succeed(t, errors.Join(errs...))
	for i, bus := range buses {
		g := &guest{Instance: booted[i]}
		r.startNode(t, g)
		r.guests[bus] = g
	}
}

// startNode starts the node plugin, which detects the ID of its server, and connects to it.
func (r *rig) startNode(t *testing.T, g *guest) {
	t.Helper()
	ctx := t.Context()
	g.plugin = must.Value(g.Start(ctx, vm.Command{Argv: []string{
		"growvol-node", "--backend=cinder", "--endpoint=unix://" + vm.NodeSocket, "--log-level=debug",
	}}))(t)
	conn := must.Value(g.DialNode())(t)
	g.Driver = &csiclient.Driver{Controller: r.client(), Node: csi.NewNodeClient(conn), Dir: "/var/lib/kubelet/plugins"}
	err := openstack.WaitUntil(ctx, "the node plugin answers", func(ctx context.Context) (bool, error) {
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
		t.Fatalf("the node plugin reports the server %q, want %s", g.NodeID, g.ID)
	}
}

// runScript runs a shell script in the guest and returns its output.
func (g *guest) runScript(t *testing.T, script string) string {
	t.Helper()
	command := vm.Command{Argv: []string{"sh", "-c", script}, Timeout: 10 * time.Minute}
	return strings.TrimSpace(must.Value(g.Run(t.Context(), command))(t))
}

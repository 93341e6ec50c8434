package krbd

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/rbd/cluster"
	"github.com/growvol/growvol/pkg/rbdcsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// cutOff drops what this machine sends to the cluster, until heal is called.
func (r rig) cutOff() (heal func()) {
	r.t.Helper()
	monitor := strings.TrimSpace(r.run("ceph-conf", "--lookup", "mon_host"))
	v1, _ := cluster.Cluster{Monitors: []string{monitor}}.KernelMonitors()
	host, _, _ := strings.Cut(v1[0], ":")
	route := func(action string) {
		r.t.Helper()
		// Without r.t.Context: it has ended in a clean-up.
		out, err := exec.CommandContext(context.Background(), "ip", "route", action, "blackhole", host+"/32").CombinedOutput()
		if err != nil {
			r.t.Fatalf("ip route %s: %v: %s", action, err, out)
		}
	}
	route("add")
	isCut := true
	heal = func() {
		if isCut {
			isCut = false
			route("del")
		}
	}
	r.t.Cleanup(heal)
	return heal
}

// within calls f with a context of that time, and checks that f ends with it: without that it would
// wait until the cut is healed, which is never. The time that may pass is for a busy machine.
func within(t *testing.T, what string, limit time.Duration, f func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	err := f(ctx)
	took := time.Since(start)
	t.Logf("%s, after %s: %v", what, took, err)
	if took > limit+time.Minute {
		t.Errorf("%s took %s, want some %s", what, took, limit)
	}
	return err
}

func TestRealClusterThatDoesNotAnswer(t *testing.T) {
	r := newRig(t)
	c := r.newConnector()
	mapped, newOne := r.request(r.newImage("64M", "layering,exclusive-lock")), r.request(r.newImage("64M", "layering"))
	own := r.request(r.newImage("64M", "layering"))
	own.VolumeContext = map[string]string{rbdcsi.ParameterMapOptions: "noshare,mount_timeout=3"}
	r.connect(c, mapped)
	heal := r.cutOff()
	connect := func(req volume.ConnectRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Connect(ctx, req)
			return err
		}
	}
	disconnect := func(ctx context.Context) error { return c.Disconnect(ctx, mapped.ID) }
	refresh := func(ctx context.Context) error { return c.RefreshDevice(ctx, mapped.ID) }
	// Before the others: the kernel makes one mapping at a time until it has connected to the cluster.
	err := within(t, "map with a new client", callTimeout, connect(own))
	volumetest.WantKind(t, err, volume.KindUnavailable)
	err = within(t, "refresh", time.Second, refresh)
	volumetest.WantKind(t, err, volume.KindDeadline)
	err = within(t, "map with the client that is connected", 2*time.Second, connect(newOne))
	volumetest.WantKind(t, err, volume.KindDeadline)
	err = within(t, "map again", time.Second, connect(newOne))
	volumetest.WantKind(t, err, volume.KindDeadline)
	err = within(t, "unmap", 2*time.Second, disconnect)
	volumetest.WantKind(t, err, volume.KindDeadline)
	err = within(t, "unmap again", time.Second, disconnect)
	volumetest.WantKind(t, err, volume.KindDeadline)
	heal()
	if err := within(t, "unmap after the cut", callTimeout, disconnect); err != nil {
		t.Error(err)
	}
	r.connect(c, newOne)
	all, err := c.bus.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.key == keyName(mapped.ID) || m.key == keyName(own.ID) {
			t.Errorf("%s is left", m)
		}
	}
}

// A map whose call has ended is removed by Disconnect.
func TestRealMapThatEndsAfterItsCallIsUnmapped(t *testing.T) {
	r := newRig(t)
	c := r.newConnector()
	first, slow := r.request(r.newImage("64M", "layering")), r.request(r.newImage("64M", "layering"))
	r.connect(c, first)
	heal := r.cutOff()
	err := within(t, "map", time.Second, func(ctx context.Context) error {
		_, err := c.Connect(ctx, slow)
		return err
	})
	volumetest.WantKind(t, err, volume.KindDeadline)
	heal()
	r.disconnect(c, slow.ID)
}

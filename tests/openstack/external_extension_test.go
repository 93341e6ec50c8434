package openstack_test

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/openstack"
)

// testExternalExtension extends volumes in Cinder without a call to the driver: the node plugin
// grows the filesystem by itself.
func (r *rig) testExternalExtension(t *testing.T) {
	r.checkLeftovers(t)
	for bus, fstype := range map[openstack.Bus]string{openstack.BusVirtioBlk: "ext4", openstack.BusVirtioSCSI: "xfs"} {
		t.Run(fstype+" on "+string(bus), func(t *testing.T) { extendInCinder(t, r, r.guest(t, bus), fstype) })
	}
}

func extendInCinder(t *testing.T, r *rig, g *guest, fstype string) {
	t.Helper()
	ctx := testContext(t)
	v := must.Value(g.Create(ctx, testName(t), gib, csiclient.MountCapability(fstype), nil))(t)
	must.Succeed(t, g.Use(ctx, v))
	w := g.startWriter(t, v)
	for _, size := range []int64{2 * gib, 3 * gib} {
		cloud := *r.User.Volumes
		cloud.Microversion = "3.42" // the lowest version that extends volumes in use
		must.Succeed(t, volumes.ExtendSize(ctx, &cloud, v.ID, volumes.ExtendSizeOpts{NewSize: int(size / gib)}).Err)
		start := time.Now()
		device := g.awaitSize(t, size, func() int64 { bytes, _ := g.sizes(t, v); return bytes })
		fs := g.awaitSize(t, size*90/100, func() int64 { _, bytes := g.sizes(t, v); return bytes })
		t.Logf("to %s: the device has the size after %s, the filesystem %s later", sizeText(size),
			device.Sub(start).Round(time.Millisecond), fs.Sub(device).Round(time.Millisecond))
		g.wantGrown(t, v, size)
	}
	bytes, stall := w.stop(t)
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Use(ctx, v))
	w.verify(t, v)
	must.Succeed(t, g.Release(ctx, v))
	must.Succeed(t, g.Delete(ctx, v))
	t.Logf("1 → 3 GiB in two extensions; %s written meanwhile, longest stall %s", sizeText(bytes), stall)
}

// sizes returns the sizes of a volume's device and filesystem in the guest, in bytes.
func (g *guest) sizes(t *testing.T, v *csiclient.Volume) (device, filesystem int64) {
	t.Helper()
	fields := strings.Fields(g.runScript(t, "df -k "+v.Target+" | tail -n 1"))
	if len(fields) != 6 {
		t.Fatalf("df %s: got the fields %q, want 6", v.Target, fields)
	}
	sectors := g.runScript(t, "cat /sys/class/block/"+filepath.Base(fields[0])+"/size")
	return 512 * must.Value(strconv.ParseInt(sectors, 10, 64))(t), must.Value(strconv.ParseInt(fields[1], 10, 64))(t) << 10
}

// awaitSize calls read until it returns at least minSize bytes, and returns the time of that call.
func (g *guest) awaitSize(t *testing.T, minSize int64, read func() int64) time.Time {
	t.Helper()
	ctx := testContext(t)
	for {
		got := read()
		if got >= minSize {
			return time.Now()
		}
		if operation.Sleep(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("got %s, want at least %s", sizeText(got), sizeText(minSize))
		}
	}
}

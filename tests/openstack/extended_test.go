package openstack_test

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"

	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/openstack"
)

// testExtended: somebody extends a volume in Cinder, and the pod has the room:
// nobody calls the driver at all.
func (r *rig) testExtended(t *testing.T) {
	r.tidy(t)
	for bus, fstype := range map[openstack.Bus]string{openstack.VirtioBlk: "ext4", openstack.VirtioSCSI: "xfs"} {
		t.Run(fstype+" on "+string(bus), func(t *testing.T) { extended(t, r, r.guest(t, bus), fstype) })
	}
}

func extended(t *testing.T, r *rig, g *guest, fstype string) {
	t.Helper()
	ctx := limited(t)
	v := get(g.Create(ctx, name(t), gib, csiclient.MountCapability(fstype), nil))(t)
	must(t, g.Use(ctx, v))
	w := g.startWriter(t, v)
	for _, size := range []int64{2 * gib, 3 * gib} {
		cloud := *r.User.Volumes
		cloud.Microversion = "3.42" // from here on Cinder extends volumes in use
		must(t, volumes.ExtendSize(ctx, &cloud, v.ID, volumes.ExtendSizeOpts{NewSize: int(size / gib)}).Err)
		start := time.Now()
		device := g.awaitRead(t, size, func() int64 { bytes, _ := g.sizes(t, v); return bytes })
		fs := g.awaitRead(t, size*90/100, func() int64 { _, bytes := g.sizes(t, v); return bytes })
		t.Logf("to %s: %s after Cinder was asked the guest has the device, %s after that the filesystem is read back",
			short(size), device.Sub(start).Round(time.Millisecond), fs.Sub(device).Round(time.Millisecond))
		g.wantGrown(t, v, size)
	}
	bytes, stall := w.stop(t)
	must(t, g.Release(ctx, v))
	must(t, g.Use(ctx, v))
	w.verify(t, v)
	must(t, g.Release(ctx, v))
	must(t, g.Delete(ctx, v))
	t.Logf("1 → 3 GiB, twice extended by hand; %s written meanwhile, longest stall %s", short(bytes), stall)
}

// sizes reads the device and the filesystem of a volume in the guest, in bytes.
func (g *guest) sizes(t *testing.T, v *csiclient.Volume) (device, filesystem int64) {
	t.Helper()
	fields := strings.Fields(g.sh(t, "df -k "+v.Target+" | tail -n 1"))
	if len(fields) != 6 {
		t.Fatalf("df of %s: %q", v.Target, fields)
	}
	sectors := g.sh(t, "cat /sys/class/block/"+filepath.Base(fields[0])+"/size")
	return 512 * get(strconv.ParseInt(sectors, 10, 64))(t), get(strconv.ParseInt(fields[1], 10, 64))(t) << 10
}

// awaitRead reads until it is at least the size in bytes, and returns when.
func (g *guest) awaitRead(t *testing.T, least int64, read func() int64) time.Time {
	t.Helper()
	ctx := limited(t)
	for {
		got := read()
		if got >= least {
			return time.Now()
		}
		if operation.Sleep(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("%s are read, want at least %s", short(got), short(least))
		}
	}
}

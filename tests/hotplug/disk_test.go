package hotplug

import (
	"context"
	"crypto/rand"
	"fmt"
	"path"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// Short names for sizes.
const (
	gib = volume.GiB
	mib = volume.MiB
)

// callTimeout bounds a call. kubelet waits two minutes; a call that takes longer
// than one here hangs.
const callTimeout = time.Minute

// disk is a volume of the cloud with its disk in the guest and the parts of its
// requests.
type disk struct {
	*csiclient.Volume
	name        string // of the machine's disk
	size        volume.Size
	devicePath  string // the device node in the guest, once findDevice has found it
	isUnplugged bool   // by the test
	patternHash string // the hash of what writePattern wrote
}

// newID returns a random volume id (UUID version 4), as Cinder makes them.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newVolume returns a volume whose disk is not plugged in yet. The end of the test
// undoes the calls and unplugs the disk.
func newVolume(t *testing.T, id string, capability *csi.VolumeCapability) *disk {
	t.Helper()
	d := &disk{name: newID()[:13], Volume: &csiclient.Volume{
		ID: id, Name: id, Capability: capability,
		PublishContext: map[string]string{cindercsi.ContextDevicePath: "/dev/vdz"},
		Staging:        path.Join(kubeletDir, newID(), "globalmount"),
		Target:         path.Join(kubeletDir, newID(), "pod"),
	}}
	t.Cleanup(func() { d.cleanUp(t) })
	return d
}

// plugVolume returns a new volume whose disk of 1 GiB is plugged in.
func plugVolume(t *testing.T, bus vm.Bus, capability *csi.VolumeCapability) *disk {
	t.Helper()
	d := newVolume(t, newID(), capability)
	d.plug(t, vm.Disk{Bus: bus, Size: gib})
	return d
}

// plug plugs the disk in. Its serial is the volume's id unless as has one.
func (d *disk) plug(t *testing.T, as vm.Disk) {
	t.Helper()
	as.Name = d.name
	if as.Serial == "" {
		as.Serial = d.ID
	}
	must.Succeed(t, machine.AddDisk(t.Context(), as))
	d.size = as.Size
}

// grow makes the disk larger in the hypervisor.
func (d *disk) grow(t *testing.T, size volume.Size) {
	t.Helper()
	must.Succeed(t, machine.ResizeDisk(t.Context(), d.name, size))
	d.size = size
}

// unplug unplugs the disk and waits until the guest's kernel has removed it, which
// for a SCSI disk is after QEMU has.
func (d *disk) unplug(t *testing.T) {
	t.Helper()
	must.Succeed(t, machine.RemoveDisk(t.Context(), d.name))
	d.isUnplugged = true
	if d.devicePath != "" {
		sh(t, "while [ -e /sys/block/"+path.Base(d.devicePath)+" ]; do sleep 0.1; done")
	}
}

// cleanUp unpublishes and unstages the volume and unplugs its disk. If the test has
// failed, cleanUp logs what growvol-node logged about the volume.
func (d *disk) cleanUp(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), callTimeout)
	defer cancel()
	if t.Failed() {
		t.Logf("log of growvol-node about %s:\n%s", d.ID, pluginLog(ctx, d.ID))
		if err := machine.Err(); err != nil {
			t.Log(err)
		}
	}
	driver := machine.driver
	for _, call := range []func(context.Context, *csiclient.Volume) error{driver.Unpublish, driver.Unstage} {
		if err := call(ctx, d.Volume); err != nil && d.ID != "" {
			t.Errorf("clean up: %v", err)
		}
	}
	// rmdir fails for the directories that do not exist.
	_, _ = machine.Run(ctx, vm.Command{Argv: []string{"rmdir", d.Staging, path.Dir(d.Staging), path.Dir(d.Target)}})
	if d.size > 0 && !d.isUnplugged {
		if err := machine.RemoveDisk(ctx, d.name); err != nil {
			t.Error(err)
		}
	}
}

// pluginLog returns the last 5000 bytes of growvol-node's log lines that contain
// the id.
func pluginLog(ctx context.Context, id string) string {
	log, err := machine.plugin.Log(ctx)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for line := range strings.Lines(log) {
		if strings.Contains(line, id) && !strings.Contains(line, `msg="csi request"`) {
			b.WriteString(line)
		}
	}
	return b.String()[max(0, b.Len()-5000):]
}

// stageAndPublish stages and publishes the volume.
func (d *disk) stageAndPublish(t *testing.T) {
	t.Helper()
	must.Succeed(t, d.stage(t))
	must.Succeed(t, d.publish(t))
}

// unpublishAndUnstage undoes stageAndPublish.
func (d *disk) unpublishAndUnstage(t *testing.T) {
	t.Helper()
	must.Succeed(t, d.unpublish(t))
	must.Succeed(t, d.unstage(t))
}

func (d *disk) stage(t *testing.T) error {
	t.Helper()
	return d.call(t, machine.driver.Stage)
}

func (d *disk) publish(t *testing.T) error {
	t.Helper()
	return d.call(t, machine.driver.Publish)
}

func (d *disk) unpublish(t *testing.T) error {
	t.Helper()
	return d.call(t, machine.driver.Unpublish)
}

func (d *disk) unstage(t *testing.T) error {
	t.Helper()
	return d.call(t, machine.driver.Unstage)
}

// call makes one call for the volume, within callTimeout.
func (d *disk) call(t *testing.T, f func(context.Context, *csiclient.Volume) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	return f(ctx, d.Volume)
}

// stageWithin stages with a timeout and fails the test if the answer comes after
// it.
func (d *disk) stageWithin(t *testing.T, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	err := machine.driver.Stage(ctx, d.Volume)
	if ctx.Err() != nil {
		t.Errorf("growvol-node answered only after the caller's timeout of %s", timeout)
	}
	return err
}

// expand calls NodeExpandVolume for at least size bytes.
func (d *disk) expand(t *testing.T, size volume.Size) (volume.Size, error) {
	t.Helper()
	return d.expandWithin(t, size, callTimeout)
}

// expandWithin is expand with a timeout. It fails the test if the answer comes
// after it.
func (d *disk) expandWithin(t *testing.T, size volume.Size, timeout time.Duration) (volume.Size, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	n, err := machine.driver.ExpandNode(ctx, d.Volume, size.Bytes())
	if ctx.Err() != nil {
		t.Errorf("growvol-node answered only after the caller's timeout of %s", timeout)
	}
	return volume.Size(n), err
}

// mustExpand calls expand and ends the test unless the answer is want.
func (d *disk) mustExpand(t *testing.T, size, want volume.Size) {
	t.Helper()
	if got, err := d.expand(t, size); err != nil || got != want {
		t.Fatalf("expand to %s: got %s, %v; want %s", size, got, err, want)
	}
}

// sh runs a script in the guest and returns its output without space around it.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := machine.Run(t.Context(), vm.Command{Argv: []string{"sh", "-c", script}, Timeout: callTimeout})
	must.Succeed(t, err)
	return strings.TrimSpace(out)
}

// shNumber runs a script that prints a number.
func shNumber(t *testing.T, script string) volume.Size {
	t.Helper()
	return volume.Size(must.Value(strconv.ParseInt(sh(t, script), 10, 64))(t))
}

// findDevice waits until the guest shows the disk and returns its device node. It
// searches the serials in sysfs, without the plugin, and only once: a disk keeps
// its name while it is plugged in.
func (d *disk) findDevice(t *testing.T) string {
	t.Helper()
	if d.devicePath == "" {
		found := sh(t, fmt.Sprintf(`for i in $(seq 400); do
			for f in /sys/block/sd*/device/vpd_pg80; do
				[ -e $f ] && [ "$(tail -c +5 $f 2>/dev/null)" = %q ] && echo $f && exit # behind the page's header
			done
			grep -l -s -x -F %.20q /sys/block/*/serial && exit
			grep -l -s -F %.20q /sys/block/*/device/serial && exit
			sleep 0.1
		done; exit 1`, d.ID, d.ID, d.ID))
		d.devicePath = "/dev/" + strings.Split(found, "/")[3]
	}
	return d.devicePath
}

// sizeFile returns the sysfs file with the number of the disk's sectors of 512
// bytes.
func (d *disk) sizeFile(t *testing.T) string {
	t.Helper()
	return "/sys/class/block/" + path.Base(d.findDevice(t)) + "/size"
}

// deviceSize returns the disk's size that the guest's kernel shows.
func (d *disk) deviceSize(t *testing.T) volume.Size {
	t.Helper()
	return shNumber(t, "cat "+d.sizeFile(t)) * 512
}

// awaitDeviceSize waits until the guest's kernel shows the size.
func (d *disk) awaitDeviceSize(t *testing.T, size volume.Size) {
	t.Helper()
	sh(t, fmt.Sprintf("until [ $(cat %s) = %d ]; do sleep 0.1; done", d.sizeFile(t), size.Bytes()/512))
}

// df returns the filesystem's size as the pod sees it, without the filesystem's own
// overhead.
func (d *disk) df(t *testing.T) volume.Size {
	t.Helper()
	var blocks, size int64
	must.Value(fmt.Sscan(sh(t, "stat -f -c '%b %S' "+d.Target), &blocks, &size))(t)
	return volume.Size(blocks * size)
}

// wantDF fails the test unless the pod (df) and kubelet (statistics) see a
// filesystem of the size, of which up to a tenth may be the filesystem's own.
func (d *disk) wantDF(t *testing.T, size volume.Size) {
	t.Helper()
	if got := d.df(t); got > size || got < size/10*9 {
		t.Errorf("df: got %s, want about %s", got, size)
	}
	total, _, err := machine.driver.Stats(t.Context(), d.Volume)
	if got := volume.Size(total); err != nil || got > size || got < size/10*9 {
		t.Errorf("statistics: got %s, %v; want about %s", got, err, size)
	}
}

// checkFilesystem checks an unmounted filesystem with its own tool and fails the
// test unless it has the size, less 1 MiB at most: a filesystem cannot use a
// shorter tail.
func checkFilesystem(t *testing.T, fstype, device string, size volume.Size) {
	t.Helper()
	var got volume.Size
	if fstype == "xfs" {
		sh(t, "xfs_repair -n "+device)
		got = shNumber(t, `xfs_db -r -c 'sb 0' -c 'p dblocks' `+device+` | sed 's/.*= //'`) * 4096
	} else {
		sh(t, "e2fsck -f -n "+device)
		got = shNumber(t, "dumpe2fs -h "+device+" 2>/dev/null | sed -n 's/^Block count: *//p'") * 4096
	}
	if got > size || got < size-mib {
		t.Errorf("got a filesystem of %s, want %s", got, size)
	}
}

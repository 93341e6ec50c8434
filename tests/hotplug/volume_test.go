package hotplug

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

const (
	gib = volume.GiB
	mib = volume.MiB
)

// callTimeout bounds a call. kubelet gives it two minutes; what needs one here is
// stuck.
const callTimeout = time.Minute

// disk is a volume as the cloud has attached it: a disk, and what the node is
// told of it.
type disk struct {
	*csiclient.Volume
	name        string // of the machine's disk
	size        volume.Size
	devicePath  string // the device node in the guest, once it is known
	isUnplugged bool   // unplugged by the test
	// writtenHash is the hash of what fill wrote.
	writtenHash string
}

// newID returns a volume id as Cinder makes them.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newVolume is a volume that is not plugged in (yet).
func newVolume(t *testing.T, id string, capability *csi.VolumeCapability) *disk {
	t.Helper()
	v := &csiclient.Volume{ID: id, Name: id, Capability: capability, PublishContext: map[string]string{cindercsi.ContextDevicePath: "/dev/vdz"}}
	v.Staging, v.Target = kubeletDir+"/"+newID()+"/globalmount", kubeletDir+"/"+newID()+"/pod"
	d := &disk{Volume: v, name: newID()[:13]}
	t.Cleanup(func() { d.cleanUp(t) })
	return d
}

// plugVolume attaches a new volume of 1 GiB.
func plugVolume(t *testing.T, bus vm.Bus, capability *csi.VolumeCapability) *disk {
	t.Helper()
	d := newVolume(t, newID(), capability)
	d.plug(t, vm.Disk{Bus: bus, Size: gib})
	return d
}

// plug plugs the disk in; its serial is the volume's id unless the test says
// otherwise.
func (d *disk) plug(t *testing.T, as vm.Disk) {
	t.Helper()
	as.Name = d.name
	if as.Serial == "" {
		as.Serial = d.ID
	}
	must.Succeed(t, machine.AddDisk(t.Context(), as))
	d.size = as.Size
}

// grow has the hypervisor make the disk larger.
func (d *disk) grow(t *testing.T, size volume.Size) {
	t.Helper()
	must.Succeed(t, machine.ResizeDisk(t.Context(), d.name, size))
	d.size = size
}

// unplug has the hypervisor take the disk away, and waits until the guest's
// kernel has noticed: QEMU has done with a SCSI disk before.
func (d *disk) unplug(t *testing.T) {
	t.Helper()
	must.Succeed(t, machine.RemoveDisk(t.Context(), d.name))
	d.isUnplugged = true
	if d.devicePath != "" {
		sh(t, "while [ -e /sys/block/"+strings.TrimPrefix(d.devicePath, "/dev/")+" ]; do sleep 0.1; done")
	}
}

// cleanUp undoes whatever the test has left of its volume.
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
	for _, undo := range []func(context.Context, *csiclient.Volume) error{machine.driver.Unpublish, machine.driver.Unstage} {
		if err := undo(ctx, d.Volume); err != nil && d.ID != "" {
			t.Errorf("clean up: %v", err)
		}
	}
	_, _ = machine.Run(ctx, vm.Command{Argv: []string{"rmdir", d.Staging, parentDir(d.Staging), parentDir(d.Target)}}) // those that exist
	if d.size > 0 && !d.isUnplugged {
		if err := machine.RemoveDisk(ctx, d.name); err != nil {
			t.Error(err)
		}
	}
}

func parentDir(path string) string { return path[:strings.LastIndex(path, "/")] }

// pluginLog returns the lines of growvol-node's log about a volume.
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

// stageAndPublish stages and publishes.
func (d *disk) stageAndPublish(t *testing.T) {
	t.Helper()
	must.Succeed(t, d.stage(t))
	must.Succeed(t, callWithTimeout(t, machine.driver.Publish, d))
}

func (d *disk) stage(t *testing.T) error {
	t.Helper()
	return callWithTimeout(t, machine.driver.Stage, d)
}

func (d *disk) unstage(t *testing.T) {
	t.Helper()
	must.Succeed(t, callWithTimeout(t, machine.driver.Unpublish, d))
	must.Succeed(t, callWithTimeout(t, machine.driver.Unstage, d))
}

// expand asks the node for at least the size, within the time that kubelet
// gives.
func (d *disk) expand(t *testing.T, size volume.Size) (volume.Size, error) {
	t.Helper()
	return d.expandWithin(t, size, callTimeout)
}

func (d *disk) expandWithin(t *testing.T, size volume.Size, limit time.Duration) (volume.Size, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	n, err := machine.driver.ExpandNode(ctx, d.Volume, size.Bytes())
	if ctx.Err() != nil {
		t.Error("the answer came only when the caller had given up")
	}
	return volume.Size(n), err
}

func callWithTimeout(t *testing.T, f func(context.Context, *csiclient.Volume) error, d *disk) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	return f(ctx, d.Volume)
}

// callWithin is a stage that has little time.
func (d *disk) stageWithin(t *testing.T, limit time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	err := machine.driver.Stage(ctx, d.Volume)
	if ctx.Err() != nil {
		t.Error("the answer came only when the caller had given up")
	}
	return err
}

// sh runs a script in the guest and returns its output, trimmed.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := machine.Run(t.Context(), vm.Command{Argv: []string{"sh", "-c", script}, Timeout: callTimeout})
	must.Succeed(t, err)
	return strings.TrimSpace(out)
}

// findDevice finds the disk's device node by what sysfs shows, independently of the
// plugin; it waits until it is there. A disk keeps its name while it is plugged
// in.
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

// deviceSize reads the disk's size as the guest's kernel knows it.
func (d *disk) deviceSize(t *testing.T) volume.Size {
	t.Helper()
	return shNumber(t, "cat /sys/class/block/"+strings.TrimPrefix(d.findDevice(t), "/dev/")+"/size") * 512
}

// awaitDeviceSize waits until the guest's kernel, which is told by an interrupt,
// knows of the size.
func (d *disk) awaitDeviceSize(t *testing.T, size volume.Size) {
	t.Helper()
	sh(t, fmt.Sprintf("until [ $(cat /sys/class/block/%s/size) = %d ]; do sleep 0.1; done", strings.TrimPrefix(d.findDevice(t), "/dev/"), size.Bytes()/512))
}

func shNumber(t *testing.T, script string) volume.Size {
	t.Helper()
	n, err := strconv.ParseInt(sh(t, script), 10, 64)
	must.Succeed(t, err)
	return volume.Size(n)
}

// df returns the size that the pod sees: that of the filesystem without its
// own overhead.
func (d *disk) df(t *testing.T) volume.Size {
	t.Helper()
	var blocks, size int64
	_, err := fmt.Sscan(sh(t, "stat -f -c '%b %S' "+d.Target), &blocks, &size)
	must.Succeed(t, err)
	return volume.Size(blocks * size)
}

// wantDF checks what the pod and kubelet see. Up to a tenth is the
// filesystem's own.
func (d *disk) wantDF(t *testing.T, size volume.Size) {
	t.Helper()
	if got := d.df(t); got > size || got < size/10*9 {
		t.Errorf("df shows %s, want about %s", got, size)
	}
	total, _, err := machine.driver.Stats(t.Context(), d.Volume)
	if got := volume.Size(total); err != nil || got > size || got < size/10*9 {
		t.Errorf("the volume's statistics show %s, want about %s (%v)", got, size, err)
	}
}

// checkFilesystem examines the filesystem on a device that is not mounted with its own
// tool, and its size.
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
	// A tail that is too short for a filesystem's own structures may be left.
	if got > size || got < size-mib {
		t.Errorf("the filesystem has %s, want %s", got, size)
	}
}

// writer is the application on the volume.
type writer struct {
	process *vm.Process
	record  string
}

func (d *disk) startWriter(t *testing.T) writer {
	t.Helper()
	w := writer{record: "/tmp/record-" + d.name}
	p, err := machine.Start(t.Context(), vm.Command{Argv: []string{"writer", "write", d.Target, w.record}})
	must.Succeed(t, err)
	t.Cleanup(func() { _ = p.Kill(context.WithoutCancel(t.Context())) }) // it has ended, or the test has failed
	w.process = p
	return w
}

// stop ends the writer; it must have lived so far.
func (w writer) stop(t *testing.T) string {
	t.Helper()
	must.Succeed(t, w.process.Signal(t.Context(), syscall.SIGTERM))
	must.Succeed(t, w.process.Wait(t.Context()))
	log, err := w.process.Log(t.Context())
	must.Succeed(t, err)
	return strings.TrimSpace(log)
}

// verify reads back what was written.
func (w writer) verify(t *testing.T, dir string) string {
	t.Helper()
	return sh(t, "writer verify "+dir+" "+w.record+" && rm "+w.record)
}

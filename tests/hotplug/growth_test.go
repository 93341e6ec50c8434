package hotplug

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/csiclient"
	"github.com/growvol/growvol/tests/must"
	"github.com/growvol/growvol/tests/vm"
)

// growableBuses returns the buses on which QEMU can grow a disk.
func growableBuses() []vm.Bus { return []vm.Bus{vm.VirtioBlk, vm.VirtioSCSI, vm.VirtioSCSISilent} }

// filesystemOn returns the filesystem of the tests on a bus. One is enough: its growth does not
// depend on the bus, and tests/e2e grows every filesystem.
func filesystemOn(bus vm.Bus) string {
	switch bus {
	case vm.VirtioSCSI:
		return "xfs"
	case vm.VirtioSCSISilent:
		return "ext3"
	default:
		return "ext4"
	}
}

// A volume grows twice under a writer, on every bus: first the device grows before the call, then
// while the call waits.
func TestExpandInUse(t *testing.T) {
	for _, bus := range growableBuses() {
		fstype := filesystemOn(bus)
		t.Run(string(bus)+"/"+fstype, func(t *testing.T) {
			t.Parallel()
			d := plugVolume(t, bus, csiclient.MountCapability(fstype))
			d.stageAndPublish(t)
			d.wantDF(t, gib)
			w := d.startWriter(t)
			device := d.findDevice(t)

			d.growThenExpand(t, bus, 2*gib)
			d.wantDF(t, 2*gib)
			took := d.growDuringExpand(t, 3*gib)
			d.wantDF(t, 3*gib)
			// A repeated call succeeds, and so does one for a smaller size.
			for _, size := range []volume.Size{3 * gib, 2 * gib} {
				d.mustExpand(t, size, 3*gib)
			}

			wrote := w.stop(t)
			d.unpublishAndUnstage(t)
			checkFilesystem(t, fstype, device, 3*gib)
			d.stageAndPublish(t)
			read := w.verify(t, d.Target)
			t.Logf("1 → 2 → 3 GiB; the second call took %s after the device had grown; written %s, read back %s",
				took.Round(time.Millisecond), wrote, read)
		})
	}
}

// growThenExpand grows the device, then calls NodeExpandVolume, and checks the
// device's size.
func (d *disk) growThenExpand(t *testing.T, bus vm.Bus, size volume.Size) {
	t.Helper()
	old := d.size
	d.grow(t, size)
	if bus == vm.VirtioSCSISilent {
		<-time.After(300 * time.Millisecond)
		if got := d.deviceSize(t); got != old {
			t.Errorf("got a device of %s before the call, want the old size of %s", got, old)
		}
	}
	d.mustExpand(t, size, size)
	if got := d.deviceSize(t); got != size {
		t.Errorf("got a device of %s, want %s", got, size)
	}
}

// growDuringExpand calls NodeExpandVolume and grows the device while the call
// waits. It returns how long the call took after the device had grown.
func (d *disk) growDuringExpand(t *testing.T, size volume.Size) time.Duration {
	t.Helper()
	type answer struct {
		size volume.Size
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		n, err := d.expand(t, size)
		done <- answer{n, err}
	}()
	select {
	case a := <-done:
		t.Fatalf("got %s, %v before the device has grown, want the call to wait", a.size, a.err)
	case <-time.After(1500 * time.Millisecond):
	}
	d.grow(t, size)
	start := time.Now()
	a := <-done
	if a.err != nil || a.size != size {
		t.Fatalf("expand to %s: got %s, %v", size, a.size, a.err)
	}
	return time.Since(start)
}

// Cinder has grown the volume, but the hypervisor has not grown the device, so that the
// filesystem's tools have nothing to do and exit with 0. Other drivers report a
// success. growvol-node fails within the caller's timeout with both sizes and a next
// step, changes nothing, and succeeds once the device has grown.
func TestExpandFailsUntilTheHypervisorGrowsTheDevice(t *testing.T) {
	for _, bus := range append(growableBuses(), vm.NVMe) {
		for _, fstype := range []string{"ext4", "xfs", "block"} {
			t.Run(string(bus)+"/"+fstype, func(t *testing.T) {
				t.Parallel()
				capability := csiclient.BlockCapability()
				if fstype != "block" {
					capability = csiclient.MountCapability(fstype)
				}
				d := plugVolume(t, bus, capability)
				d.stageAndPublish(t)
				_, err := d.expandWithin(t, 2*gib, 6*time.Second)
				must.FailWith(t, err, codes.DeadlineExceeded, d.ID, "1 GiB", "2 GiB", "next step", "Nova")
				if fstype != "block" {
					d.wantDF(t, gib)
				}
				if bus == vm.NVMe { // QEMU 7.2 cannot grow it
					return
				}
				// A growth that is too small is not enough.
				d.grow(t, gib+gib/2)
				_, err = d.expandWithin(t, 2*gib, 6*time.Second)
				must.FailWith(t, err, codes.DeadlineExceeded, d.ID, "1536 MiB", "2 GiB")
				d.grow(t, 2*gib)
				d.mustExpand(t, 2*gib, 2*gib)
			})
		}
	}
}

func TestExpandRawBlockInUse(t *testing.T) {
	for _, bus := range growableBuses() {
		t.Run(string(bus), func(t *testing.T) {
			t.Parallel()
			d := plugVolume(t, bus, csiclient.BlockCapability())
			d.stageAndPublish(t)
			// The pod has the device open all the time.
			holdOpen := "exec 3<>" + d.Target + "; while :; do sleep 1; done"
			p := must.Value(machine.Start(t.Context(), vm.Command{Argv: []string{"sh", "-c", holdOpen}}))(t)
			var marks []volume.Size // the last MiB of the device at each size
			writeMark := func() {
				end := d.size/mib - 1
				marks = append(marks, end)
				sh(t, fmt.Sprintf("yes mark-%d | head -c 1048576 | dd of=%s bs=1M seek=%d conv=notrunc,fsync 2>&1",
					end, d.Target, end))
			}
			writeMark()
			d.growThenExpand(t, bus, 2*gib)
			writeMark()
			d.growDuringExpand(t, 4*gib)
			writeMark()
			total, _, err := machine.driver.Stats(t.Context(), d.Volume)
			if err != nil || volume.Size(total) != 4*gib {
				t.Errorf("got statistics of %s, %v; want 4 GiB", volume.Size(total), err)
			}
			must.Succeed(t, p.Kill(t.Context()))
			d.unpublishAndUnstage(t)
			d.stageAndPublish(t)
			for _, end := range marks {
				want := fmt.Sprintf("mark-%d", end)
				got := sh(t, fmt.Sprintf("dd if=%s bs=1M skip=%d count=1 2>/dev/null | sort | uniq -c", d.Target, end))
				if !strings.Contains(got, want) {
					t.Errorf("at %d MiB: got %q, want %q", end, got, want)
				}
			}
		})
	}
}

// NodeStageVolume that is called before the guest's kernel has found the disk waits for
// the disk.
func TestStageWaitsForTheDisk(t *testing.T) {
	for _, bus := range append(growableBuses(), vm.NVMe) {
		t.Run(string(bus), func(t *testing.T) {
			t.Parallel()
			d := newVolume(t, newID(), csiclient.MountCapability("ext4"))
			done := make(chan error, 1)
			go func() { done <- d.stage(t) }()
			select {
			case err := <-done:
				t.Fatalf("got %v before the disk is plugged in, want the call to wait", err)
			case <-time.After(time.Second):
			}
			d.plug(t, vm.Disk{Bus: bus, Size: gib})
			must.Succeed(t, <-done)
			if got := sh(t, "grep "+d.Staging+" /proc/mounts | cut -d' ' -f1"); got != d.findDevice(t) {
				t.Errorf("got %s staged, want the disk %s", got, d.findDevice(t))
			}
		})
	}
}

// The volume grows while no pod uses it: stage grows the filesystem.
func TestStageGrowsAfterOfflineExpansion(t *testing.T) {
	t.Parallel()
	for _, fstype := range []string{"ext3", "xfs"} {
		d := plugVolume(t, vm.VirtioBlk, csiclient.MountCapability(fstype))
		d.stageAndPublish(t)
		d.unpublishAndUnstage(t)
		d.grow(t, 2*gib)
		d.awaitDeviceSize(t, 2*gib)
		d.stageAndPublish(t)
		d.wantDF(t, 2*gib)
		d.mustExpand(t, 2*gib, 2*gib)
	}
}

// The plugin is killed while it waits for the device. The same call to a new plugin
// succeeds.
func TestRetryCompletesTheExpandOfAKilledPlugin(t *testing.T) {
	d := plugVolume(t, vm.VirtioSCSISilent, csiclient.MountCapability("ext4"))
	d.stageAndPublish(t)
	w := d.startWriter(t)
	done := make(chan error, 1)
	go func() {
		_, err := d.expand(t, 2*gib)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatal(err)
	case <-time.After(500 * time.Millisecond):
	}
	must.Succeed(t, machine.plugin.Kill(t.Context()))
	must.FailWith(t, <-done, codes.Unavailable)
	must.Succeed(t, machine.startPlugin(t.Context()))
	d.growThenExpand(t, vm.VirtioSCSISilent, 2*gib)
	d.wantDF(t, 2*gib)
	w.stop(t)
	w.verify(t, d.Target)
}

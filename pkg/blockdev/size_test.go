package blockdev

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

func TestRescanWritesTheFilesOfEachKind(t *testing.T) {
	m := newMachineWithDisks(t)
	files := map[string][]string{
		"8:0":   {"sys/devices/pci/host0/rescan"},
		"259:0": {"sys/devices/pci/nvme0/rescan_controller"},
		"259:1": {
			"sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1/rescan_controller",
			"sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme2/rescan_controller",
		},
		"251:0": {"sys/bus/rbd/devices/0/refresh"},
	}
	for number, list := range files {
		if offered, err := m.Rescan(t.Context(), m.mustFind(number)); err != nil || offered {
			t.Errorf("%s without the file: offered %t, %v", number, offered, err)
		}
		for _, f := range list {
			m.writeFile(f, "")
		}
		if offered, err := m.Rescan(t.Context(), m.mustFind(number)); err != nil || !offered {
			t.Errorf("%s: offered %t, %v", number, offered, err)
		}
		for _, f := range list {
			if got := m.readFile(f); got != "1\n" {
				t.Errorf("%s: %q was written to %s", number, got, f)
			}
		}
	}
	for _, number := range []string{"252:0", "250:0", "253:0"} {
		if offered, err := m.Rescan(t.Context(), m.mustFind(number)); err != nil || offered {
			t.Errorf("%s: offered %t, %v", number, offered, err)
		}
	}
}

func TestRescanEndsWithItsContext(t *testing.T) {
	m := newMachineWithDisks(t)
	hang := make(chan struct{})
	defer close(hang)
	d := m.mustFind("7:0")
	m.diskOfNode(d).loopCapacity = func() { <-hang }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.Rescan(ctx, d); volume.KindOf(err) != volume.KindDeadline {
		t.Errorf("got %v", err)
	}
}

func TestAwaitSizeRescansOnlyADiskThatIsTooSmall(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("8:0")
	m.writeFile("sys/devices/pci/host0/rescan", "")
	if size, err := m.AwaitSize(t.Context(), d, volume.GiB); err != nil || size != volume.GiB {
		t.Fatalf("size %s, %v; want 1 GiB", size, err)
	}
	if got := m.readFile("sys/devices/pci/host0/rescan"); got != "" {
		t.Fatal("AwaitSize rescanned a disk that was large enough")
	}
	// The disk shows its new size after a rescan only.
	m.diskOfNode(d).size = func() volume.Size {
		if m.readFile("sys/devices/pci/host0/rescan") != "" {
			return 6 * volume.GiB
		}
		return volume.GiB
	}
	if size, err := m.AwaitSize(t.Context(), d, 6*volume.GiB); err != nil || size != 6*volume.GiB {
		t.Errorf("size after a rescan: %s, %v; want 6 GiB", size, err)
	}
}

// The kernel has no rescan for virtio-blk: the size changes by itself.
func TestAwaitSizePollsWithoutARescan(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("252:0")
	var reads atomic.Int32
	m.diskOfNode(d).size = func() volume.Size {
		if reads.Add(1) > 3 {
			return 6 * volume.GiB
		}
		return volume.GiB
	}
	if size, err := m.AwaitSize(t.Context(), d, 5*volume.GiB); err != nil || size != 6*volume.GiB {
		t.Errorf("size %s, %v; want 6 GiB", size, err)
	}
}

func TestAwaitSizeRescansAgainAfterALateGrowth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachineWithDisks(t)
		d := m.mustFind("7:0")
		var rescans atomic.Int32
		m.diskOfNode(d).loopCapacity = func() { rescans.Add(1) }
		m.diskOfNode(d).size = func() volume.Size {
			if rescans.Load() > 1 { // the first rescan came before the growth
				return 6 * volume.GiB
			}
			return volume.GiB
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*rescanInterval)
		defer cancel()
		if size, err := m.AwaitSize(ctx, d, 6*volume.GiB); err != nil || size != 6*volume.GiB {
			t.Errorf("size after the second rescan: %s, %v; want 6 GiB", size, err)
		}
	})
}

func TestAwaitSizeFailsWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachineWithDisks(t)
		for number, kind := range map[string]volume.Kind{
			"252:0": volume.KindDeadline, "8:0": volume.KindDeadline, "7:0": volume.KindCanceled,
		} {
			d := m.mustFind(number)
			m.diskOfNode(d).loopCapacity = func() {}
			m.writeFile("sys/devices/pci/host0/rescan", "")
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if kind == volume.KindCanceled {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			started := time.Now()
			size, err := m.AwaitSize(ctx, d, 6*volume.GiB)
			cancel()
			if volume.KindOf(err) != kind || size != volume.GiB {
				t.Errorf("%s: %s, %v (kind %s)", d, size, err, volume.KindOf(err))
			}
			for _, part := range []string{d.Path, "1 GiB", "6 GiB", "next step"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %q is not in %v", d, part, err)
				}
			}
			if waited := time.Since(started); waited > 2*time.Second {
				t.Errorf("%s: AwaitSize returned %s after its start", d, waited)
			}
		}
	})
}

// The disk could still grow after a failed rescan, so the failure is reported only when
// the wait has failed.
func TestAwaitSizeReportsAFailedRescan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachineWithDisks(t)
		d := m.mustFind("8:0")
		m.writeFile("sys/devices/pci/host0/rescan/x", "") // a directory, which cannot be written to
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := m.AwaitSize(ctx, d, 6*volume.GiB)
		if volume.KindOf(err) != volume.KindDeadline || !strings.Contains(err.Error(), "is a directory") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAwaitSizeFailsWhenTheDiskIsRemoved(t *testing.T) {
	m := newMachineWithDisks(t)
	d := m.mustFind("252:0")
	var reads atomic.Int32
	m.diskOfNode(d).size = func() volume.Size {
		if reads.Add(1) == 2 {
			if err := os.Remove(d.Path); err != nil {
				t.Error(err)
			}
		}
		return volume.GiB
	}
	if _, err := m.AwaitSize(t.Context(), d, 6*volume.GiB); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

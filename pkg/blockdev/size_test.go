package blockdev

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

func TestRescanFiles(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
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
		if offered, err := r.Rescan(t.Context(), r.mustFind(number)); err != nil || offered {
			t.Errorf("%s without the file: offered %t, %v", number, offered, err)
		}
		for _, f := range list {
			r.writeFile(f, "")
		}
		if offered, err := r.Rescan(t.Context(), r.mustFind(number)); err != nil || !offered {
			t.Errorf("%s: offered %t, %v", number, offered, err)
		}
		for _, f := range list {
			if got := r.readFile(f); got != "1\n" {
				t.Errorf("%s: %q was written to %s", number, got, f)
			}
		}
	}
	for _, number := range []string{"252:0", "250:0", "253:0"} {
		if offered, err := r.Rescan(t.Context(), r.mustFind(number)); err != nil || offered {
			t.Errorf("%s: offered %t, %v", number, offered, err)
		}
	}
}

// A rescan that hangs in the kernel must not outlive the caller's patience.
func TestRescanObeysTheContext(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	hang := make(chan struct{})
	defer close(hang)
	d := r.mustFind("7:0")
	r.fake.nodes[d.Path].loopCapacity = func() { <-hang }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Rescan(ctx, d); volume.KindOf(err) != volume.KindDeadline {
		t.Errorf("got %v", err)
	}
}

func TestAwaitSizeRescansOnlyWhenShort(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("8:0")
	r.writeFile("sys/devices/pci/host0/rescan", "")
	if size, err := r.AwaitSize(t.Context(), d, volume.GiB); err != nil || size != volume.GiB {
		t.Fatalf("%s, %v", size, err)
	}
	if got := r.readFile("sys/devices/pci/host0/rescan"); got != "" {
		t.Fatal("a disk that was large enough was rescanned")
	}
	// The disk shows its new size after a rescan only.
	r.fake.nodes[d.Path].size = func() volume.Size {
		if r.readFile("sys/devices/pci/host0/rescan") != "" {
			return 6 * volume.GiB
		}
		return volume.GiB
	}
	if size, err := r.AwaitSize(t.Context(), d, 6*volume.GiB); err != nil || size != 6*volume.GiB {
		t.Errorf("%s, %v", size, err)
	}
}

// virtio-blk: nothing to rescan, the size comes by itself.
func TestAwaitSizePolls(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("252:0")
	var reads atomic.Int32
	r.fake.nodes[d.Path].size = func() volume.Size {
		if reads.Add(1) > 3 {
			return 6 * volume.GiB
		}
		return volume.GiB
	}
	if size, err := r.AwaitSize(t.Context(), d, 5*volume.GiB); err != nil || size != 6*volume.GiB {
		t.Errorf("%s, %v", size, err)
	}
}

func TestAwaitSizeRescansAgain(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("7:0")
	var rescans atomic.Int32
	r.fake.nodes[d.Path].loopCapacity = func() { rescans.Add(1) }
	r.fake.nodes[d.Path].size = func() volume.Size {
		if rescans.Load() > 1 { // the growth was late
			return 6 * volume.GiB
		}
		return volume.GiB
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*rescanInterval)
	defer cancel()
	if size, err := r.AwaitSize(ctx, d, 6*volume.GiB); err != nil || size != 6*volume.GiB {
		t.Errorf("%s, %v", size, err)
	}
}

func TestAwaitSizeDeadline(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	for number, kind := range map[string]volume.Kind{"252:0": volume.KindDeadline, "8:0": volume.KindDeadline, "7:0": volume.KindCanceled} {
		d := r.mustFind(number)
		r.fake.nodes[d.Path].loopCapacity = func() {}
		r.writeFile("sys/devices/pci/host0/rescan", "")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if kind == volume.KindCanceled {
			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		started := time.Now()
		size, err := r.AwaitSize(ctx, d, 6*volume.GiB)
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
			t.Errorf("%s: returned %s late", d, waited)
		}
	}
}

// A failed rescan alone is not the end: the size may come by itself. In vain,
// it is named.
func TestAwaitSizeNamesAFailedRescan(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("8:0")
	if err := os.MkdirAll(filepath.Join(r.root, "sys/devices/pci/host0/rescan"), 0o755); err != nil { // cannot be written to
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := r.AwaitSize(ctx, d, 6*volume.GiB)
	if volume.KindOf(err) != volume.KindDeadline || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("got %v", err)
	}
}

func TestAwaitSizeOfAVanishingDisk(t *testing.T) {
	r := newFakeMachine(t)
	addEveryKind(r)
	d := r.mustFind("252:0")
	var reads atomic.Int32
	r.fake.nodes[d.Path].size = func() volume.Size {
		if reads.Add(1) == 2 {
			if err := os.Remove(d.Path); err != nil {
				t.Error(err)
			}
		}
		return volume.GiB
	}
	if _, err := r.AwaitSize(t.Context(), d, 6*volume.GiB); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

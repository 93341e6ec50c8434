package node

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/volume"
)

// The disk of a raw volume is pulled out under its pod, and another volume's
// disk gets its number. The node that the pod has left leads to the other
// disk; both volumes can be taken away all the same.
func TestANodeWhoseDiskHasGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a device node needs root")
	}
	b := newBench(t, blockCap())
	d := b.use(t, volume.GiB)
	second := *b
	second.id, second.staging, second.target = "vol-2", b.staging+"-2", b.target+"-2"
	other := second.use(t, volume.GiB)

	d.connected, d.path, d.number, other.number = false, "/dev/gone", 99, d.number
	published := &b.mounts[0]
	if published.Mountpoint != b.target {
		t.Fatalf("mounts %+v", b.mounts)
	}
	published.Source = other.path // as MountsOf has it: by the number of the node
	// A node that is still there is a disk's in use: nobody takes it away.
	wantKind(t, second.unstage(t.Context()), volume.Precondition, "in use")
	wantKind(t, b.unpublish(t.Context()), volume.Precondition, "left alone")

	published.Root += "//deleted" // as the kernel shows a node that it has removed
	if err := errors.Join(second.unpublish(t.Context()), second.unstage(t.Context())); err != nil {
		t.Errorf("the other volume: %v", err)
	}
	if err := errors.Join(b.unpublish(t.Context()), b.unstage(t.Context())); err != nil {
		t.Errorf("the volume whose disk has gone: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(b.target, &st); !errors.Is(err, unix.ENOENT) {
		t.Errorf("the target is still there: %v", err)
	}
}

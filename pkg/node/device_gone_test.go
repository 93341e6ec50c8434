package node

import (
	"errors"
	"os"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// The disk of a raw volume is pulled out under its pod, and the disk of another volume gets its
// number. The device node that the pod has leads to the other disk; both volumes can still be
// unpublished and unstaged.
func TestVolumesLeaveAfterTheirDiskIsGone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a device node needs root")
	}
	for _, first := range []string{"the one that lost its disk", "the other"} {
		t.Run(first+" leaves first", func(t *testing.T) {
			b := newTestNode(t, blockCapability())
			d := b.stageAndPublish(t, volume.GiB)
			second := *b
			second.id, second.staging, second.target = "vol-2", b.staging+"-2", b.target+"-2"
			other := second.stageAndPublish(t, volume.GiB)

			d.connected, d.path, d.number, other.number = false, "/dev/gone", 99, d.number
			published := &b.mounts[0]
			if published.MountPoint != b.target {
				t.Fatalf("mounts %+v", b.mounts)
			}
			// A device node that still has a disk is not unmounted.
			volumetest.WantKind(t, second.unstage(t.Context()), volume.KindPrecondition, "in use")
			volumetest.WantKind(t, b.unpublish(t.Context()), volume.KindPrecondition, "left alone")

			published.Root += "//deleted" // as the kernel shows a node that it has removed
			leaving := []*testNode{b, &second}
			if first == "the other" {
				leaving = []*testNode{&second, b}
			}
			for _, v := range leaving {
				if err := errors.Join(v.unpublish(t.Context()), v.unstage(t.Context())); err != nil {
					t.Errorf("%s: %v", v.id, err)
				}
			}
			for _, v := range leaving {
				if _, err := os.Lstat(v.target); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is still there: %v", v.target, err)
				}
			}
		})
	}
}

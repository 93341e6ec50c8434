package node

import (
	"testing"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// A volume with an older type of ext, perhaps restored from an old snapshot, is mounted with the
// fsType of the class, also by a repeated stage. A type that the requested driver cannot read is an
// error.
func TestStageMountsExt2AndExt3AsTheyAre(t *testing.T) {
	for _, c := range []struct {
		want   string
		found  filesystem.Type
		refuse bool
	}{
		{"ext4", filesystem.TypeExt2, false},
		{"ext4", filesystem.TypeExt3, false},
		{"", filesystem.TypeExt2, false},
		{"ext2", filesystem.TypeExt3, false},
		{"ext3", filesystem.TypeExt4, true},
		{"ext3", filesystem.TypeExt2, true},
		{"ext4", filesystem.TypeXFS, true},
	} {
		t.Run(c.want+" wanted, "+string(c.found)+" found", func(t *testing.T) {
			b := newTestNode(t, mountCapability(c.want))
			d := b.add(b.id, volume.GiB)
			d.content = filesystem.Signature{State: filesystem.StateFormatted, IsComplete: true, Type: c.found, Size: volume.GiB}
			if c.refuse {
				volumetest.WantKind(t, b.stage(t.Context()), volume.KindPrecondition, string(c.found), c.want)
				// A filesystem that is staged already is not staged as another type.
				b.capability = mountCapability(string(c.found))
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
				b.capability = mountCapability(c.want)
				volumetest.WantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, string(c.found), c.want)
				return
			}
			for range 2 {
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			driver := c.found
			if c.found == filesystem.TypeExt2 {
				driver = filesystem.TypeExt4
			}
			if len(b.mounts) != 1 || b.mounts[0].FSType != string(driver) {
				t.Errorf("mounted: %+v, want one %s", b.mounts, driver)
			}
			if b.countCalls("format") != 0 {
				t.Error("it was formatted")
			}
		})
	}
}

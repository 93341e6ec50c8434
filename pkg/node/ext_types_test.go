package node

import (
	"testing"

	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// TestStageMountsOldExtAsWhatItIs: a volume of an older time, or restored from
// an old snapshot, is used under the class's fsType, also when it is staged
// already; one that the wanted driver cannot read is left alone.
func TestStageMountsOldExtAsWhatItIs(t *testing.T) {
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
				wantKind(t, b.stage(t.Context()), volume.KindPrecondition, string(c.found), c.want)
				// Staged by whatever driver before, it is not passed off as another.
				b.capability = mountCapability(string(c.found))
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
				b.capability = mountCapability(c.want)
				wantKind(t, b.stage(t.Context()), volume.KindAlreadyExists, string(c.found), c.want)
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

// TestReadOnlyInOneOption: "noatime,ro" is read-only in every step, as it is
// for mount(8), and "ro,rw" is not.
func TestReadOnlyInOneOption(t *testing.T) {
	for flags, readOnly := range map[string]bool{"noatime,ro": true, "ro,noatime": true, "ro,rw": false} {
		t.Run(flags, func(t *testing.T) {
			b := newTestNode(t, mountCapability("ext4", flags))
			d := b.add(b.id, volume.GiB)
			if readOnly {
				wantKind(t, b.stage(t.Context()), volume.KindPrecondition, "read-only") // blank: nothing to read
				d.content = ext4Signature()
			}
			for range 2 { // the second time it is what was asked for
				if err := b.stage(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := b.publish(t.Context(), false); err != nil {
					t.Fatal(err)
				}
			}
			if len(b.mounts) != 2 || b.mounts[0].IsReadOnly() != readOnly || b.mounts[1].IsReadOnly() != readOnly {
				t.Errorf("mounts %+v, want read-only=%t", b.mounts, readOnly)
			}
			if checked := b.countCalls("check") > 0; readOnly && checked || b.countCalls("grow") > 0 == readOnly {
				t.Errorf("checked %t, grown %d times", checked, b.countCalls("grow"))
			}
		})
	}
}

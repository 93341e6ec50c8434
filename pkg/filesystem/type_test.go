package filesystem

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestParseType(t *testing.T) {
	for _, name := range []string{"ext2", "ext3", " ext4", "XFS", "btrfs"} {
		if _, err := ParseType(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "ntfs", "ext5"} {
		_, err := ParseType(name)
		volumetest.WantKind(t, err, volume.KindInvalid, "not supported", "to one of")
	}
}

package filesystem

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestParseType(t *testing.T) {
	for _, name := range []string{"ext2", "ext3", " ext4", "XFS", "btrfs"} {
		if _, err := ParseType(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "ntfs", "ext5"} {
		_, err := ParseType(name)
		wantError(t, err, volume.KindInvalid, "not supported", "use one of")
	}
}

package capability

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

func TestMinSize(t *testing.T) {
	for fstype, want := range map[string]volume.Size{"xfs": 300 * volume.MiB, " XFS ": 300 * volume.MiB, "": 0, "zfs": 0} {
		if got := MinSize(fstype); got != want {
			t.Errorf("MinSize(%q) = %s, want %s", fstype, got, want)
		}
	}
}

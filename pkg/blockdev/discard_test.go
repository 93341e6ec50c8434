package blockdev

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestDiscardLimitReadsSysfs(t *testing.T) {
	m := newFakeMachine(t)
	m.addDevice("pci/block/vda", "252:0", map[string]string{"queue/discard_max_bytes": "2147483136\n"})
	m.addDevice("pci/block/vdb", "252:16", map[string]string{"queue/discard_max_bytes": "0\n"})
	m.addDevice("pci/block/vdc", "252:32", map[string]string{"queue/discard_max_bytes": "some\n"})
	m.addDevice("pci/block/vdd", "252:48", nil)
	for number, want := range map[string]volume.Size{"252:0": 2147483136, "252:16": 0} {
		if got, err := m.DiscardLimit(m.mustFind(number)); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", number, got, err, want)
		}
	}
	for _, number := range []string{"252:32", "252:48"} {
		_, err := m.DiscardLimit(m.mustFind(number))
		volumetest.WantKind(t, err, volume.KindInternal, "discards")
	}
}

package volume_test

import (
	"testing"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

func TestParseIOLimits(t *testing.T) {
	t.Parallel()
	got, err := volume.ParseIOLimits(map[string]string{
		"maxReadBps": "1048576", "maxWriteIops": "100", "maxReadIops": "", "x": "y",
	})
	if want := (volume.IOLimits{ReadBPS: 1 << 20, WriteIOPS: 100}); err != nil || got != want {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	for _, value := range []string{"0", "-1", "1Mi", "1.5", "99999999999999999999"} {
		_, err := volume.ParseIOLimits(map[string]string{"maxWriteBps": value})
		volumetest.WantKind(t, err, volume.KindInvalid, "maxWriteBps", value)
	}
}

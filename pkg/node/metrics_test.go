package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/volume"
)

// addMetrics gives the Server metrics. read returns the value of each counter, and the number of
// samples of each histogram, by "name,label value,…".
func (b *testNode) addMetrics(t *testing.T) (read func() map[string]float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	b.opts.Metrics = NewMetrics(reg)
	return func() map[string]float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		values := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				key := f.GetName()
				for _, l := range m.GetLabel() {
					key += "," + l.GetValue()
				}
				values[key] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		return values
	}
}

func TestExpandCountsPhasesAndBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		metrics := b.addMetrics(t)
		d := b.stageAndPublish(t, volume.GiB)
		d.backendSize = 2 * volume.GiB
		if _, err := b.expand(t.Context(), 2*volume.GiB); err != nil {
			t.Fatal(err)
		}
		d.backendSize, d.ignoresRescan = 3*volume.GiB, true
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if _, err := b.expand(ctx, 3*volume.GiB); err == nil {
			t.Fatal("a stale device was a success")
		}
		got := metrics()
		for key, want := range map[string]float64{
			"growvol_node_expand_phase_seconds,device,ok":       1,
			"growvol_node_expand_phase_seconds,device,deadline": 1,
			"growvol_node_expand_phase_seconds,filesystem,ok":   1,
			"growvol_node_grown_bytes_total,ioctl":              float64(volume.GiB),
		} {
			if got[key] != want {
				t.Errorf("%s = %g, want %g", key, got[key], want)
			}
		}
	})
}

func TestStageCountsADeviceThatIsTooSmall(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	metrics := b.addMetrics(t)
	d := b.add(b.id, volume.GiB)
	if err := b.stage(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.backendSize, d.ignoresRescan = 2*volume.GiB, true
	if err := b.stage(contextWithTimeout(t)); err == nil {
		t.Fatal("got success with a device that is too small, want an error")
	}
	if got := metrics()["growvol_node_growths_total,stage,deadline"]; got != 1 {
		t.Errorf("got %g failed growths, want 1", got)
	}
}

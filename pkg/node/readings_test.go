package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/must"
)

func (b *testNode) readVolumes(t *testing.T, ids ...string) []readings.Volume {
	t.Helper()
	return must.Value(b.ReadVolumes(t.Context(), ids))(t)
}

func TestReadVolumesReadsDeviceAndFilesystem(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	all := b.readVolumes(t)
	if len(all) != 1 || all[0].ID != b.id || all[0].Staged != b.staging || all[0].Problem != "" {
		t.Fatalf("got %+v, want the staged volume", all)
	}
	v := all[0]
	device, fs := v.Layer(readings.LayerDevice), v.Layer(readings.LayerFilesystem)
	if device == nil || device.Size != volume.GiB || fs == nil || fs.Detail != "ext4" || v.Usage == nil {
		t.Fatalf("got %+v, want device, filesystem and usage", v)
	}
	if v.Usage.Total != 90 || v.Usage.Filesystem != "ext4" || v.Layer(readings.LayerMapping) != nil {
		t.Errorf("got %+v, want the usage that statfs answers, and no mapping", v)
	}
	if got := b.readVolumes(t, "other"); len(got) != 0 {
		t.Errorf("got %+v for another id, want none", got)
	}
	must.Succeed(t, b.unpublish(t.Context()))
	must.Succeed(t, b.unstage(t.Context()))
	if got := b.readVolumes(t); len(got) != 0 || b.lastReadings.get(b.id) != nil {
		t.Errorf("got %+v after unstage, want none, and none in memory", got)
	}
}

func TestReadVolumesReadsTheMapping(t *testing.T) {
	b := newEncryptedTestNode(t, mountCapability("ext4"))
	b.stageAndPublish(t, volume.GiB)
	v := b.readVolumes(t)[0]
	if m := v.Layer(readings.LayerMapping); m == nil || m.Size != volume.GiB-headerSize || v.Problem != "" {
		t.Errorf("got %+v, want the mapping without its header", v)
	}
}

// A filesystem that does not answer delays nothing by more than its bound, keeps one goroutine, and
// has its last readings.
func TestFrozenFilesystemKeepsItsLastReadings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestNode(t, mountCapability("ext4"))
		b.stageAndPublish(t, volume.GiB)
		before := b.readVolumes(t)[0]
		b.holdGrow = make(chan struct{})
		for round := range 3 {
			began := time.Now()
			v := b.readVolumes(t)[0]
			if d := time.Since(began); d > volumeReadTimeout || round > 0 && d > 0 {
				t.Errorf("round %d took %s, want at most %s, and then nothing", round, d, volumeReadTimeout)
			}
			if v.Problem == "" || v.Usage == nil || !v.Usage.ReadAt.Equal(before.Usage.ReadAt) {
				t.Errorf("got %+v, want a problem and the last usage", v)
			}
			select {
			case <-time.After(time.Second):
			case <-t.Context().Done():
			}
		}
		close(b.holdGrow)
		synctest.Wait()
		if v := b.readVolumes(t)[0]; v.Problem != "" {
			t.Errorf("got the problem %q after the filesystem answers again", v.Problem)
		}
	})
}

// Volumes whose device is gone are in the answer with the reason.
func TestReadVolumesReportsAGoneDevice(t *testing.T) {
	b := newTestNode(t, mountCapability("ext4"))
	d := b.stageAndPublish(t, volume.GiB)
	d.connected = false
	if v := b.readVolumes(t)[0]; !strings.Contains(v.Problem, "its device is gone") || len(v.Layers) != 0 {
		t.Errorf("got %+v, want the problem alone", v)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if all, err := b.ReadVolumes(ctx, nil); err != nil || all[0].Problem == "" {
		t.Errorf("got %s, %v for an ended context, want a problem", fmt.Sprint(all), err)
	}
}

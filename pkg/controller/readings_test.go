package controller

import (
	"strings"
	"testing"

	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakebackend"
	"github.com/growvol/growvol/tests/must"
)

func TestReadVolumesReadsTheStorageSystem(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New()
	s := New(fake, Options{})
	v := must.Value(fake.Create(t.Context(), volume.CreateRequest{Name: "pvc-1", Size: volume.GiB}))(t)
	fake.Impair(v.ID, volume.Condition{Impairment: volume.ImpairmentDegraded, Message: "reset its state"})
	all := must.Value(s.ReadVolumes(t.Context(), []string{"unknown", v.ID}))(t)
	if len(all) != 2 || all[0].ID != "unknown" || all[0].Problem == "" || len(all[0].Layers) != 0 {
		t.Fatalf("got %+v, want a problem of the unknown volume", all)
	}
	l := all[1].Layer(readings.LayerVolume)
	if l == nil || l.Size != volume.GiB || !strings.Contains(l.Detail, "reset its state") || l.ReadAt.IsZero() {
		t.Errorf("got %+v, want size and state in the storage system", all[1])
	}
	_, err := s.ReadVolumes(t.Context(), nil)
	if !volume.IsKind(err, volume.KindInvalid) || !strings.Contains(err.Error(), "/volumes?id=") {
		t.Errorf("got %v without ids, want what to do", err)
	}
}

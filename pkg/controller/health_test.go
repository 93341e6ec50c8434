package controller

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakebackend"
)

func TestGetVolumeHealth(t *testing.T) {
	t.Parallel()
	fake := fakebackend.New()
	s := New(fake, Options{})
	v, err := fake.Create(t.Context(), volume.CreateRequest{Name: "pvc-1", Size: volume.GiB})
	if err != nil {
		t.Fatal(err)
	}
	health := func(id string) ([]*csi.VolumeHealth_VolumeHealthEntry, error) {
		resp, err := s.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
		if err == nil && resp.GetVolumeHealth().GetVolumeId() != id {
			t.Errorf("got the health of %q, want %q", resp.GetVolumeHealth().GetVolumeId(), id)
		}
		return resp.GetVolumeHealth().GetHealthStatuses(), err
	}
	if got, err := health(v.ID); err != nil || len(got) != 0 {
		t.Errorf("without a condition: got %v, %v, want none", got, err)
	}
	wants := map[volume.Impairment]csi.VolumeHealthErrorType{
		volume.ImpairmentDegraded:     csi.VolumeHealthErrorType_DEGRADED,
		volume.ImpairmentInaccessible: csi.VolumeHealthErrorType_INACCESSIBLE,
		volume.ImpairmentDataLoss:     csi.VolumeHealthErrorType_DATA_LOSS,
		0:                             csi.VolumeHealthErrorType_UNKNOWN_VOLUME_HEALTH_TYPE,
	}
	for i := range wants {
		fake.Impair(v.ID, volume.Condition{Impairment: i, Reason: "ErrorExtending", Message: "reset its state"})
	}
	got, err := health(v.ID)
	if err != nil || len(got) != len(wants) {
		t.Fatalf("got %v, %v, want %d conditions", got, err, len(wants))
	}
	seen := make(map[csi.VolumeHealthErrorType]bool)
	for _, entry := range got {
		seen[entry.GetStatus()] = true
		if entry.GetReason() != "ErrorExtending" || entry.GetMessage() != "reset its state" {
			t.Errorf("got %v, want the reason and message of the backend", entry)
		}
	}
	for _, want := range wants {
		if !seen[want] {
			t.Errorf("got %v, want %s in it", got, want)
		}
	}
	if _, err := health("deleted"); !volume.IsKind(err, volume.KindNotFound) {
		t.Errorf("a deleted volume: got %v, want kind NotFound", err)
	}
}

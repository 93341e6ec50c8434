package controller

import (
	"context"
	"testing"

	"github.com/csi-addons/spec/lib/go/reclaimspace"

	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/pkg/volume/volumetest"
)

// reclaimingBackend is a backend with the optional interface.
type reclaimingBackend struct {
	volume.Backend
	reclaimed volume.Reclaimed
	err       error
}

func (r *reclaimingBackend) ReclaimSpace(context.Context, string) (volume.Reclaimed, error) {
	return r.reclaimed, r.err
}

func TestReclaimSpaceAnswersWithTheUsage(t *testing.T) {
	t.Parallel()
	b := &reclaimingBackend{reclaimed: volume.Reclaimed{Before: 3 * volume.GiB, After: volume.GiB}}
	s, req := New(b, Options{}), &reclaimspace.ControllerReclaimSpaceRequest{VolumeId: "vol-1"}
	resp, err := s.ControllerReclaimSpace(t.Context(), req)
	if err != nil || resp.GetPreUsage().GetUsageBytes() != 3<<30 || resp.GetPostUsage().GetUsageBytes() != 1<<30 {
		t.Errorf("got %v, %v; want 3 GiB before and 1 GiB after", resp, err)
	}
	// Nothing was read of a volume in use, so that nothing is reported.
	b.reclaimed = volume.Reclaimed{IsInUse: true}
	resp, err = s.ControllerReclaimSpace(t.Context(), req)
	if err != nil || resp == nil || resp.GetPreUsage() != nil || resp.GetPostUsage() != nil {
		t.Errorf("in use: got %v, %v; want success without usages", resp, err)
	}
	b.err = volume.Errorf(volume.KindInProgress, "the volume is attached")
	_, err = s.ControllerReclaimSpace(t.Context(), req)
	volumetest.WantKind(t, err, volume.KindInProgress, "vol-1")
	_, err = s.ControllerReclaimSpace(t.Context(), &reclaimspace.ControllerReclaimSpaceRequest{})
	volumetest.WantKind(t, err, volume.KindInvalid, "volume_id")
}

func TestReclaimSpaceIsUnsupportedByABackendWithoutIt(t *testing.T) {
	t.Parallel()
	var b struct{ volume.Backend }
	_, err := New(b, Options{}).ControllerReclaimSpace(t.Context(),
		&reclaimspace.ControllerReclaimSpaceRequest{VolumeId: "vol-1"})
	volumetest.WantKind(t, err, volume.KindUnsupported, "not in use")
}

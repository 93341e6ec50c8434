package rbd

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/growvol/growvol/pkg/rbd/internal/fakeceph"
	"github.com/growvol/growvol/pkg/volume"
)

// This file tests two kills in a row: in a creation, and in the removal of what the first one has
// left.

func TestInterruptedRemovalsOfInterruptedCreationsLeaveNothing(t *testing.T) {
	t.Parallel()
	for call, creation := range map[string]struct {
		steps  int
		source volume.Source
	}{
		"Pool.Create": {2, volume.Source{}},
		"Pool.Clone":  {5, volume.Source{SnapshotID: firstSnapshot}},
	} {
		const removeSteps = 6
		for made := 1; made <= creation.steps; made++ {
			for removed := 1; removed <= removeSteps; removed++ {
				faults := []fakeceph.Fault{{Call: call, Steps: made}, {Call: "Pool.Remove", Steps: removed}}
				checkLeavesNothing(t, copyRequest("pvc-2", creation.source), faults, false)
				checkLeavesNothing(t, copyRequest("pvc-2", creation.source), faults, true)
			}
		}
	}
}

// checkLeavesNothing makes the request with each fault, then without one, and deletes the volume,
// if isRetired before its snapshot.
func checkLeavesNothing(t *testing.T, req volume.CreateRequest, faults []fakeceph.Fault, isRetired bool) {
	t.Helper()
	r := newRig(t)
	r.create(t, request("pvc-1"))
	r.snapshot(t, "s", firstVolume)
	before := r.server.Contents()
	create := func() (volume.Volume, error) {
		if req.Source == (volume.Source{}) {
			return r.Create(t.Context(), req)
		}
		return r.createCopy(t, req)
	}
	for _, fault := range faults {
		fault.Errno = unix.ETIMEDOUT
		r.server.Inject(fault)
		_, _ = create()
		r.server.ClearFaults()
		r.server.DropConnections()
		r.Backend = r.newBackend(t)
	}
	v, err := create()
	check(t, err)
	var snapshot volume.Snapshot
	if isRetired {
		snapshot = r.snapshot(t, "s2", v.ID)
	}
	check(t, r.Delete(t.Context(), v.ID))
	if isRetired {
		check(t, r.DeleteSnapshot(t.Context(), snapshot.ID))
	}
	if after := r.server.Contents(); !slices.Equal(after, before) {
		t.Errorf("%+v, deleted before its snapshot %t: the cluster has %q, want %q", faults, isRetired, after, before)
	}
}

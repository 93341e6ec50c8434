package cindertest

import (
	"context"
	"testing"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Snapshotter creates snapshots.
type Snapshotter interface {
	CreateSnapshot(ctx context.Context, req volume.SnapshotRequest) (volume.Snapshot, error)
}

// SnapshotRequest returns a request for a snapshot. parameters are keys and values of its class, in
// turn.
func SnapshotRequest(name, volumeID string, parameters ...string) volume.SnapshotRequest {
	req := volume.SnapshotRequest{Name: name, VolumeID: volumeID, Parameters: make(map[string]string)}
	for i := 0; i+1 < len(parameters); i += 2 {
		req.Parameters[parameters[i]] = parameters[i+1]
	}
	return req
}

// TakeSnapshot asks for a snapshot once.
func TakeSnapshot(tb testing.TB, s Snapshotter, req volume.SnapshotRequest) volume.Snapshot {
	tb.Helper()
	out, err := s.CreateSnapshot(Within(tb, 10*time.Second), req)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// TakeSnapshotUntilReady asks for a snapshot until it is ready, as external-snapshotter does.
func TakeSnapshotUntilReady(tb testing.TB, s Snapshotter, req volume.SnapshotRequest) volume.Snapshot {
	tb.Helper()
	ctx := Within(tb, 10*time.Second)
	first := TakeSnapshot(tb, s, req)
	for out := first; ; out = TakeSnapshot(tb, s, req) {
		if out.ID != first.ID {
			tb.Fatalf("the id has changed from %s to %s", first.ID, out.ID)
		}
		if out.Ready {
			return out
		}
		if err := operation.Sleep(ctx, 20*time.Millisecond); err != nil {
			tb.Fatalf("%+v is not ready after 10 s", out)
		}
	}
}

// SnapshotsNamed returns the snapshots of a name in the default cloud.
func SnapshotsNamed(tb testing.TB, clouds *cloud.Clouds, name string) []cloud.Snapshot {
	tb.Helper()
	c, err := clouds.Cloud(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	all, err := c.SnapshotsNamed(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// CountHelpers returns how many snapshots of a volume in the default cloud are helpers of backups.
func CountHelpers(tb testing.TB, clouds *cloud.Clouds, volumeID string) int {
	tb.Helper()
	c, err := clouds.Cloud(tb.Context(), "")
	if err != nil {
		tb.Fatal(err)
	}
	all, _, err := c.Snapshots(tb.Context(), cloud.SnapshotPage{VolumeID: volumeID})
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	for _, s := range all {
		if s.Metadata[metadata.BackupOf] != "" {
			n++
		}
	}
	return n
}

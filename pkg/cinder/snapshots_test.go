package cinder

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// take asks for a snapshot once.
func (r *rig) take(t *testing.T, req volume.SnapshotRequest) volume.Snapshot {
	t.Helper()
	return cindertest.TakeSnapshot(t, r, req)
}

// ready asks for a snapshot until it is ready.
func (r *rig) ready(t *testing.T, req volume.SnapshotRequest) volume.Snapshot {
	t.Helper()
	return cindertest.TakeSnapshotUntilReady(t, r, req)
}

func TestBackupIsReadyWhenItIsCompleteWithoutHelper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, fakecloud.Options{Zones: []string{"nova", "vault"}})
		id, server := r.inUse(t, 2)
		class := cindertest.SnapshotRequest("b", id, "type", "backup", "availability", "vault")
		r.cloud.OnCall(fakecloud.CreateBackup, fakecloud.Stuck())
		s := r.take(t, class)
		if s.Ready || s.VolumeID != id || s.Size != 2*volume.GiB || s.Name != "b" {
			t.Errorf("%+v, want one of %s that is not ready, of 2 GiB", s, id)
		}
		// Meanwhile the volume is free for everything else, above all to grow.
		r.cloud.CheckState(t, id, state.InUse)
		if _, err := r.Expand(cindertest.Within(t, 5*time.Second), id, 3*volume.GiB); err != nil {
			t.Error(err)
		}
		r.cloud.CheckAttached(t, id, server)
		if again := r.take(t, class); again.ID != s.ID || again.Ready {
			t.Errorf("%+v, want %s not ready", again, s.ID)
		}
		r.cloud.Release(s.ID)
		if got := r.ready(t, class); got.ID != s.ID {
			t.Errorf("%+v, want %s", got, s.ID)
		}
		if n := cindertest.CountHelpers(t, r.clouds, id); n != 0 {
			t.Errorf("%d snapshots are left behind", n)
		}
		b, _ := r.cloud.Backup(s.ID)
		if b.Zone != "vault" || b.Metadata[metadata.Cluster] != cindertest.ClusterID {
			t.Errorf("%+v, want it in vault, marked", b)
		}
		if got, err := r.GetSnapshot(t.Context(), s.ID); err != nil || got.ID != s.ID || !got.Ready {
			t.Errorf("read %+v, %v", got, err)
		}
		r.cloud.CheckCalls(t, fakecloud.CreateBackup, 1)
		r.cloud.CheckCalls(t, fakecloud.CreateSnapshot, 1)
	})
}

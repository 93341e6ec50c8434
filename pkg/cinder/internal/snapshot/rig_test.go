package snapshot

import (
	"io"
	"log/slog"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/copies"
	"github.com/growvol/growvol/pkg/cinder/internal/locate"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/volume"
	"github.com/growvol/growvol/tests/fakecloud"
)

// rig is a Service over a cloud of its own.
type rig struct {
	*Service
	cloud  cindertest.Cloud
	clouds *cloud.Clouds
}

func newRig(tb testing.TB, o fakecloud.Options) *rig {
	tb.Helper()
	return newRigOver(tb, cindertest.Start(tb, o), cindertest.ClusterID)
}

// newRigOver returns the Service of a cluster over a cloud.
func newRigOver(tb testing.TB, fake cindertest.Cloud, clusterID string) *rig {
	tb.Helper()
	clouds, log := fake.Open(tb), slog.New(slog.DiscardHandler)
	return &rig{
		Service: New(clusterID, locate.New(clouds), copies.New(poll.NewGroup(log)), log), cloud: fake, clouds: clouds,
	}
}

// withLog makes the Service log into a text.
func (r *rig) withLog(w io.Writer) *rig {
	r.log = slog.New(slog.NewTextHandler(w, nil))
	return r
}

func (r *rig) take(tb testing.TB, req volume.SnapshotRequest) volume.Snapshot {
	tb.Helper()
	return cindertest.TakeSnapshot(tb, r, req)
}

func (r *rig) ready(tb testing.TB, req volume.SnapshotRequest) volume.Snapshot {
	tb.Helper()
	return cindertest.TakeSnapshotUntilReady(tb, r, req)
}

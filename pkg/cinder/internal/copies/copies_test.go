package copies

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeCloud is a cloud that knows the states of some volumes and counts its reads. A volume is
// available after the first read.
type fakeCloud struct {
	poll.Reader

	states map[string]string
	reads  int
}

func (*fakeCloud) Name() string { return "east" }

func (c *fakeCloud) Volume(_ context.Context, id string) (cloud.Volume, error) {
	c.reads++
	status := c.states[id]
	if status == "" {
		return cloud.Volume{}, volume.Errorf(volume.KindNotFound, "no such volume")
	}
	c.states[id] = state.Available
	return cloud.Volume{ID: id, Status: status}, nil
}

// The first read of the poller may come late, because the poller knows how long clones usually
// take.
func TestAwaitPollsOnlyForCopiesThatAreStillMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := New(poll.NewGroup(slog.New(slog.DiscardHandler)))
		api := &fakeCloud{states: map[string]string{
			"made": state.Available, "failed": state.Error, "new": state.Creating,
		}}
		for _, id := range []string{"made", "failed", "gone"} {
			k.Add("source", id, Volume)
		}
		if err := k.Await(t.Context(), api, "source", "wait"); err != nil {
			t.Fatal(err)
		}
		if api.reads != 3 {
			t.Errorf("%d reads of 3 copies that were made before, want 3, none of them by the poller", api.reads)
		}
		k.Add("source", "new", Volume)
		if err := k.Await(t.Context(), api, "source", "wait"); err != nil {
			t.Fatal(err)
		}
		if api.reads != 5 {
			t.Errorf("%d reads after a copy that is still made, want 5, one of them by the poller", api.reads)
		}
		if left := k.Of("source"); len(left) != 0 {
			t.Errorf("%v are still known, want none", left)
		}
	})
}

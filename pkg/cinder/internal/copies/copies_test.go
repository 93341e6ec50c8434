package copies

import (
	"context"
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// fakeCloud is an API that knows the states of some volumes.
type fakeCloud struct {
	API
	states map[string]string
}

func (c fakeCloud) Volume(_ context.Context, id string) (cloud.Volume, error) {
	if c.states[id] == "" {
		return cloud.Volume{}, volume.Errorf(volume.KindNotFound, "no such volume")
	}
	return cloud.Volume{ID: id, Status: c.states[id]}, nil
}

// countingPoller counts its waits, which end at once.
type countingPoller struct{ waits int }

func (p *countingPoller) Await(
	_ context.Context, _ poll.NamedReader, id, _ string, _ func(cloud.Volume) bool,
) (cloud.Volume, error) {
	p.waits++
	return cloud.Volume{ID: id, Status: state.Available}, nil
}

// The poller may read late, because it knows how long clones usually take.
func TestAwaitPollsOnlyForCopiesThatAreStillMade(t *testing.T) {
	t.Parallel()
	p := new(countingPoller)
	k := New(p)
	api := fakeCloud{states: map[string]string{"made": state.Available, "failed": state.Error, "new": state.Creating}}
	for _, id := range []string{"made", "failed", "gone"} {
		k.Add("source", id, Volume)
	}
	if err := k.Await(t.Context(), api, "source", "fail"); err != nil {
		t.Fatal(err)
	}
	if p.waits != 0 {
		t.Errorf("%d waits for copies that were made before, want 0", p.waits)
	}
	k.Add("source", "new", Volume)
	if err := k.Await(t.Context(), api, "source", "fail"); err != nil {
		t.Fatal(err)
	}
	if p.waits != 1 {
		t.Errorf("%d waits for a copy that is still made, want 1", p.waits)
	}
	if left := k.Of("source"); len(left) != 0 {
		t.Errorf("%v are still known, want none", left)
	}
}

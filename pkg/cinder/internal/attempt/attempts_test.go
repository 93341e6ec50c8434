package attempt

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// The driver may remove the volumes for which HasMade reports true.
func TestHasMadeKnowsTheVolumesOfAnUnansweredCreation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var a Attempts
		a.AddMade("pvc-1", "one")
		a.AddMade("pvc-1", "two")
		a.AddMade("pvc-2", "three")
		a.RemoveMade("pvc-1", "two")
		for id, want := range map[string]bool{"one": true, "two": false, "three": false, "": false} {
			if got := a.HasMade("pvc-1", id); got != want {
				t.Errorf("HasMade(pvc-1, %q) = %t, want %t", id, got, want)
			}
		}
		time.Sleep(maxAge + time.Second) //nolint:forbidigo // in the bubble time passes at once
		if a.HasMade("pvc-1", "one") {
			t.Errorf("HasMade reports true after %s, want false", maxAge)
		}
		a.AddMade("pvc-3", "four")
		if len(a.byName) != 1 {
			t.Errorf("%d attempts are kept, want 1: that of pvc-3", len(a.byName))
		}
		a.End("pvc-3")
		if a.HasMade("pvc-3", "four") {
			t.Error("HasMade reports true after a call has returned the volume, want false")
		}
	})
}

func TestErrorsAreNotFinalWhileALostRequestMayBeCarriedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var a Attempts
		final := volume.Errorf(volume.KindInvalid, "refused")
		a.AddLost("pvc-1")
		undo := a.AddLost("pvc-2")
		undo()
		time.Sleep(lateGrace - time.Second) //nolint:forbidigo // in the bubble time passes at once
		// Another request that got an answer in the end does not take back the first.
		a.AddLost("pvc-1")()
		for name, want := range map[string]volume.Kind{
			"pvc-1": volume.KindUnavailable, "pvc-2": volume.KindInvalid, "pvc-3": volume.KindInvalid,
		} {
			if got := a.Answer(name, final); !volume.IsKind(got, want) {
				t.Errorf("%s: %v, want kind %s", name, got, want)
			}
		}
		time.Sleep(2 * time.Second) //nolint:forbidigo // in the bubble time passes at once
		if got := a.Answer("pvc-1", final); !volume.IsKind(got, volume.KindInvalid) {
			t.Errorf("after %s: %v, want kind %s", lateGrace, got, volume.KindInvalid)
		}
		if len(a.byName) != 0 {
			t.Errorf("%v are kept after final answers, want none", a.byName)
		}
	})
}

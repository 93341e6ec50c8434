package cinder

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// What counts as made by this process may be removed.
func TestAttemptKnowsTheVolumesThatWereMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var a attempts
		a.addMade("pvc-1", "one")
		a.addMade("pvc-1", "two")
		a.addMade("pvc-2", "three")
		a.dropMade("pvc-1", "two")
		for id, want := range map[string]bool{"one": true, "two": false, "three": false, "": false} {
			if got := a.hasMade("pvc-1", id); got != want {
				t.Errorf("%q counts as made for pvc-1: %t, want %t", id, got, want)
			}
		}
		time.Sleep(maxAttemptAge + time.Second) //nolint:forbidigo // the time of the bubble, which passes at once
		if a.hasMade("pvc-1", "one") {
			t.Errorf("it counts as made after %s", maxAttemptAge)
		}
		a.addMade("pvc-3", "four")
		if len(a.of) != 1 {
			t.Errorf("%d attempts are remembered, want that of pvc-3 only", len(a.of))
		}
		a.end("pvc-3")
		if a.hasMade("pvc-3", "four") {
			t.Error("it counts as made after a call has answered with it")
		}
	})
}

func TestLostRequestMayComeLateForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var a attempts
		final := volume.Errorf(volume.KindInvalid, "refused")
		a.addLost("pvc-1")
		undo := a.addLost("pvc-2")
		undo()
		time.Sleep(lateGrace - time.Second) //nolint:forbidigo // the time of the bubble, which passes at once
		// Another request that was answered in the end does not make up for the first.
		a.addLost("pvc-1")()
		for name, want := range map[string]volume.Kind{"pvc-1": volume.KindUnavailable, "pvc-2": volume.KindInvalid, "pvc-3": volume.KindInvalid} {
			if got := a.answer(name, final); !volume.IsKind(got, want) {
				t.Errorf("%s: %v, want kind %s", name, got, want)
			}
		}
		time.Sleep(2 * time.Second) //nolint:forbidigo // the time of the bubble, which passes at once
		if got := a.answer("pvc-1", final); !volume.IsKind(got, volume.KindInvalid) {
			t.Errorf("after %s: %v, want kind %s", lateGrace, got, volume.KindInvalid)
		}
		if len(a.of) != 0 {
			t.Errorf("%v are remembered after final answers", a.of)
		}
	})
}

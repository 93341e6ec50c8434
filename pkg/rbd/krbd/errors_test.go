package krbd

import (
	"errors"
	"testing"

	"github.com/growvol/growvol/pkg/volume"
)

// wantFenced checks that err says that this node is fenced.
func wantFenced(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, volume.ErrFenced) || !volume.IsKind(err, volume.KindPrecondition) {
		t.Errorf("got %v, want an error of kind precondition that says that the node is fenced", err)
	}
}

package cinder

import (
	"context"

	"github.com/growvol/growvol/pkg/volume"
)

// turn guards what is remembered of a cloud, so that callers at the same time ask the
// cloud once. Unlike a mutex, the wait for it ends with the caller's context.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// enter takes the turn; what names the thing that is waited for, for the error.
func (t turn) enter(ctx context.Context, what string) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return volume.Errorf(volume.KindOf(ctx.Err()), "waiting for %s: %w", what, ctx.Err())
	}
}

func (t turn) leave() { <-t }

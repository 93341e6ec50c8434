package poll

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// WithAnswerMargin returns a context that ends before ctx does, by 2 s or a tenth of the
// remaining time, whichever is smaller: an error must be written while its caller still
// waits for it.
func WithAnswerMargin(ctx context.Context) (context.Context, context.CancelFunc) {
	return operation.WithMargin(ctx, 2*time.Second, 10)
}

// maxShare bounds ShareOf.
const maxShare = 15 * time.Second

// ShareOf returns the part of ctx's remaining time that one wait may take if the call has
// something to do when the wait fails: a quarter, at most 15 s. That is long enough for
// Nova at work.
func ShareOf(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(time.Until(deadline)/4, maxShare)
	}
	return maxShare
}

// WithShare returns a context that ends after ShareOf(ctx).
func WithShare(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, ShareOf(ctx))
}

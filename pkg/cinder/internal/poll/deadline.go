package poll

import (
	"context"
	"time"
)

// maxShare bounds ShareOf. Nova attaches and detaches in less time.
const maxShare = 15 * time.Second

// ShareOf returns how long one wait may take if the call has other steps to try after the wait: a
// quarter of ctx's remaining time, but at most maxShare.
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

package node

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/operation"
)

// stepTimeout bounds a step that may continue after its call. mkfs of a large ext3 takes many
// minutes (unlike for ext4, it writes the inode tables), and so does e2fsck of a large ext3.
const stepTimeout = time.Hour

// runStep runs a step that must not be cut short with the call: the kernel cannot be interrupted in
// it, or a tool that is killed leaves its work half-done and begins again with each retry. The
// step's context ends after stepTimeout. When ctx ends first, the step continues and keeps the
// lease's locks.
func runStep(ctx context.Context, lease *operation.Lease, what string, step func(context.Context) error) error {
	_, err := operation.RunDetached(ctx, lease, what, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
		defer cancel()
		return struct{}{}, step(ctx)
	})
	return err
}

package node

import (
	"context"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/volume"
)

// runStep runs a step that must not be cut short with the call, within a
// limit of its own: the kernel cannot be interrupted in it, or a tool would
// leave a mess and start over with each retry.
func runStep(ctx context.Context, l *operation.Lease, what string, step func(context.Context) error) error {
	_, err := operation.RunDetached(ctx, l, what, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
		defer cancel()
		return struct{}{}, step(ctx)
	})
	return err
}

// checkPropagation refuses a path below which a mount would stay in the plugin's own
// mount namespace: the pod would write to the node's disk instead.
func (s *Server) checkPropagation(path string) error {
	if !s.opts.RequireShared {
		return nil
	}
	ok, err := s.opts.Filesystems.Propagates(path)
	if err != nil || ok {
		return err
	}
	return volume.Errorf(volume.KindPrecondition, "a mount at %s would not be seen outside of this plugin: the mount that holds the path is not shared", path).
		WithRemedy("mount the orchestrator's directory into the plugin with mountPropagation: Bidirectional")
}

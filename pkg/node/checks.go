package node

import (
	"context"
	"path/filepath"
	"time"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// stepTimeout bounds a step that may continue after its call. mkfs of a large ext3 takes many
// minutes (unlike for ext4, it writes the inode tables), and so does e2fsck of a large ext3.
const stepTimeout = time.Hour

// runStep runs a step that must not be cut short with the call: the kernel cannot be interrupted in
// it, or a tool that is killed leaves its work half-done and begins again with each retry. The step's
// context ends after stepTimeout. When ctx ends first, the step continues and keeps the lease's locks.
func runStep(ctx context.Context, lease *operation.Lease, what string, step func(context.Context) error) error {
	_, err := operation.RunDetached(ctx, lease, what, func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stepTimeout)
		defer cancel()
		return struct{}{}, step(ctx)
	})
	return err
}

// checkPropagation returns an error when a mount at path would be visible in the plugin's own mount
// namespace only: the pod would write to the node's disk instead.
func (s *Server) checkPropagation(path string) error {
	if !s.opts.RequireShared {
		return nil
	}
	propagates, err := s.opts.Filesystems.Propagates(path)
	if err != nil || propagates {
		return err
	}
	return volume.Errorf(volume.KindPrecondition,
		"a mount at %s would not be visible outside of this plugin: the mount that holds the path is not shared", path).
		WithRemedy("mount the orchestrator's directory into the plugin with mountPropagation: Bidirectional")
}

// invalidf returns the error for a malformed request.
func invalidf(format string, args ...any) error {
	return volume.Errorf(volume.KindInvalid, format, args...)
}

// checkID returns an error when the request has no volume id.
func checkID(id string) error {
	if id == "" {
		return invalidf("volume_id is missing from the request")
	}
	return nil
}

// checkPath returns an error for an empty path and for a relative one, whose meaning depends on the
// plugin's working directory.
func checkPath(field, path string) error {
	switch {
	case path == "":
		return invalidf("%s is missing from the request", field)
	case !filepath.IsAbs(path):
		return invalidf("%s %q is not an absolute path", field, path)
	}
	return nil
}

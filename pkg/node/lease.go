package node

import "github.com/growvol/growvol/pkg/operation"

// lease takes charge of the release of a lock on a volume. Work that outlives
// its call with the lease is in Options.Detached until it ends: the plugin
// waits for it when it is stopped. Readings, which leave nothing behind, use
// operation.NewLease instead.
func (s *Server) lease(id string, unlock func()) *operation.Lease {
	return s.opts.Detached.NewLease(id, unlock)
}

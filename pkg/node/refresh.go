package node

import (
	"context"
	"errors"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// refreshTimeout is how long a refresh may take. It takes milliseconds, unless the storage system
// does not answer.
const refreshTimeout = 5 * time.Second

// refreshDevice has the connector refresh the volume's device, if it can. The error wraps
// volume.ErrFenced: this node cannot use the volume. Other failures are logged: they prove nothing
// about a device that is large enough, and the wait for a larger one refreshes again.
func (s *Server) refreshDevice(ctx context.Context, id string) error {
	refresher, ok := s.opts.Connector.(volume.DeviceRefresher)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	err := refresher.RefreshDevice(ctx, id)
	if err == nil || errors.Is(err, volume.ErrFenced) {
		return err
	}
	s.log.WarnContext(ctx, "cannot refresh the device of a volume", "volume", id, "error", err)
	return nil
}

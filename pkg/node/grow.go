package node

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/volume"
)

// growth is one growth of a volume's mappings and of the filesystem on them.
type growth struct {
	vol        *openVolume
	occasion   Occasion
	mountPoint string      // writable, if any is; empty: of a raw volume, which has no filesystem
	required   volume.Size // of the filesystem on the disk; zero: whatever the device has
	passphrase string      // of a mapping whose key the kernel keeps to itself
}

// growVolume grows the mappings and the filesystem, if there is one, for longer than the call if need
// be, and counts and remembers the result. The disk has its size already.
func (s *Server) growVolume(ctx context.Context, g growth, l *operation.Lease) error {
	grown, err := s.growLayers(ctx, g, l)
	if err == nil {
		s.growthFailures.forget(g.vol.id)
	} else {
		s.growthFailures.set(g.vol.id, err)
	}
	switch {
	case err != nil:
		s.opts.Observer.GrowthFailed(g.occasion, err)
	case grown.After > grown.Before:
		s.opts.Observer.Grown(g.occasion, grown.After-grown.Before, string(grown.Method))
		s.log.InfoContext(ctx, "filesystem grown", "volume", g.vol.id, "occasion", string(g.occasion), "device", g.vol.Path(),
			"before", grown.Before.String(), "after", grown.After.String(), "method", string(grown.Method))
	}
	return err
}

func (s *Server) growLayers(ctx context.Context, g growth, l *operation.Lease) (filesystem.Growth, error) {
	mapped, err := s.growMappings(ctx, g.vol.layers, g.passphrase)
	if err != nil || g.mountPoint == "" {
		return filesystem.Growth{}, err
	}
	req := filesystem.GrowRequest{MountPoint: g.mountPoint, Device: g.vol, Required: g.required}
	if mapped > 0 {
		req.Required = mapped
	}
	start := time.Now()
	grown, err := operation.RunDetached(ctx, l, "growing the filesystem at "+g.mountPoint, func() (filesystem.Growth, error) {
		return s.opts.Filesystems.Grow(ctx, req)
	})
	if g.occasion == OccasionExpand {
		s.opts.Observer.PhaseDone(PhaseFilesystem, time.Since(start), err)
	}
	return grown, err
}

// growMappings resizes what stands between the disk and the filesystem, from
// the disk upwards, and returns the size of the topmost as read back. It
// returns zero when there is nothing between them.
func (s *Server) growMappings(ctx context.Context, layers []blockdev.Device, passphrase string) (size volume.Size, err error) {
	if len(layers) == 1 {
		return 0, nil
	}
	start := time.Now()
	defer func() { s.opts.Observer.PhaseDone(PhaseMapper, time.Since(start), err) }()
	for i := len(layers) - 2; i >= 0; i-- {
		layer := layers[i]
		if layer.Kind != blockdev.KindCrypt {
			return 0, volume.Errorf(volume.KindPrecondition, "between the filesystem and the disk %s is %s (%s), which this driver does not resize",
				layers[len(layers)-1].Path, layer.Path, layer.Kind).
				WithRemedy("resize " + layer.Path + " by hand, then the filesystem grows with the next expansion")
		}
		if size, err = s.opts.Mappings.Grow(ctx, layer, []byte(passphrase)); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// isTransient reports whether an error can go away without a person: the device is
// still short, another growth is under way, or the time ran out.
func isTransient(err error) bool {
	switch volume.KindOf(err) {
	case volume.KindDeadline, volume.KindCanceled, volume.KindInProgress, volume.KindUnavailable:
		return true
	default:
		return false
	}
}

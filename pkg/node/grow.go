package node

import (
	"context"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/blockdev"
	"github.com/growvol/growvol/pkg/filesystem"
	"github.com/growvol/growvol/pkg/node/internal/inspect"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// growth is one growth of a volume's mappings and of the filesystem on them, to the size that the
// disk has. It is the common end of NodeExpandVolume, NodeStageVolume and GrowOnDeviceChange.
type growth struct {
	vol        *inspect.Volume
	occasion   string
	mountPoint string      // a writable one, if there is any; empty for a raw volume
	required   volume.Size // of the filesystem if nothing is between it and the disk; zero: the device's size
	passphrase string      // of a mapping whose key only the kernel has
}

// growVolume grows the mappings and the filesystem, counts the result and remembers a failure. The
// growth of the filesystem continues with the lease when ctx ends.
func (s *Server) growVolume(ctx context.Context, g growth, lease *operation.Lease) error {
	grown, err := s.growLayers(ctx, g, lease)
	if err != nil {
		s.growthFailures.set(g.vol.ID, err)
		s.opts.Metrics.growthFailed(g.occasion, err)
		return err
	}
	s.growthFailures.forget(g.vol.ID)
	if grown.After > grown.Before {
		s.opts.Metrics.grown(g.occasion, grown.After-grown.Before, string(grown.Method))
		s.log.InfoContext(ctx, "filesystem grown",
			"volume", g.vol.ID, "occasion", g.occasion, "device", g.vol.Path(),
			"before", grown.Before.String(), "after", grown.After.String(), "method", string(grown.Method))
	}
	return nil
}

func (s *Server) growLayers(ctx context.Context, g growth, lease *operation.Lease) (filesystem.Growth, error) {
	mappingSize, err := s.growMappings(ctx, g.vol.Layers, g.passphrase)
	if err != nil || g.mountPoint == "" {
		return filesystem.Growth{}, err
	}
	req := filesystem.GrowRequest{MountPoint: g.mountPoint, Device: g.vol, Required: g.required}
	if mappingSize > 0 {
		req.Required = mappingSize
	}
	start := time.Now()
	what := "growing the filesystem at " + g.mountPoint
	grown, err := operation.RunDetached(ctx, lease, what, func() (filesystem.Growth, error) {
		return s.opts.Filesystems.Grow(ctx, req)
	})
	if g.occasion == occasionExpand {
		s.opts.Metrics.phaseDone(PhaseFilesystem, start, err)
	}
	return grown, err
}

// growMappings resizes the dm-crypt mappings between the disk and the filesystem, from the disk
// upwards, and returns the size of the topmost as read back. It returns zero when there are none.
func (s *Server) growMappings(
	ctx context.Context, layers []blockdev.Device, passphrase string,
) (size volume.Size, err error) {
	if len(layers) == 1 {
		return 0, nil
	}
	start := time.Now()
	defer func() { s.opts.Metrics.phaseDone(PhaseMapper, start, err) }()
	for i := len(layers) - 2; i >= 0; i-- {
		layer := layers[i]
		if layer.Kind != blockdev.KindCrypt {
			return 0, volume.Errorf(volume.KindPrecondition,
				"between the filesystem and the disk %s is %s (%s), which this driver does not resize",
				layers[len(layers)-1].Path, layer.Path, layer.Kind).
				WithRemedy("resize " + layer.Path + " by hand; the filesystem grows with the next expansion")
		}
		if size, err = s.opts.Mappings.Grow(ctx, layer, []byte(passphrase)); err != nil {
			return 0, err
		}
	}
	return size, nil
}

// isTransient reports whether an error can go away without a person: the device has not grown yet,
// another growth is running, or the time ran out.
func isTransient(err error) bool {
	transient := []volume.Kind{volume.KindDeadline, volume.KindCanceled, volume.KindInProgress, volume.KindUnavailable}
	return slices.Contains(transient, volume.KindOf(err))
}

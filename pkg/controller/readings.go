package controller

import (
	"context"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/growvol/growvol/pkg/readings"
	"github.com/growvol/growvol/pkg/volume"
)

const (
	// volumeReadTimeout bounds the reading of one volume for ReadVolumes.
	volumeReadTimeout = 8 * time.Second
	// maxReadingsAtOnce bounds the volumes that ReadVolumes reads at the same time.
	maxReadingsAtOnce = 8
)

// ReadVolumes returns the sizes of the volumes in the storage system, in the order of ids, with
// what the storage system says of them. A volume that cannot be read has a Problem. Kind Invalid:
// ids is empty, because a listing of all volumes costs the storage system too much.
func (s *Server) ReadVolumes(ctx context.Context, ids []string) ([]readings.Volume, error) {
	if len(ids) == 0 {
		return nil, volume.Errorf(volume.KindInvalid, "the controller reads only the volumes that the request names").
			WithRemedy("name them by the parameter " + readings.IDParameter + ", such as " +
				readings.Path + "?" + readings.IDParameter + "=HANDLE")
	}
	volumes := make([]readings.Volume, len(ids))
	var group errgroup.Group
	group.SetLimit(maxReadingsAtOnce)
	for i, id := range ids {
		group.Go(func() error {
			volumes[i] = s.readVolume(ctx, id)
			return nil
		})
	}
	_ = group.Wait() // each error is the Problem of its volume
	return volumes, nil
}

// readVolume reads one volume in volumeReadTimeout.
func (s *Server) readVolume(ctx context.Context, id string) (r readings.Volume) {
	ctx, cancel := context.WithTimeout(ctx, volumeReadTimeout)
	defer cancel()
	r.ID = id
	defer func() {
		if p := recover(); p != nil { // in this goroutine it would end the process
			s.log.ErrorContext(ctx, "reading a volume panicked", "volume", id, "panic", p, "stack", string(debug.Stack()))
			r.Problem = "reading the volume has panicked (next step: read the log of the controller)"
		}
	}()
	began := time.Now()
	v, err := s.backend.Get(ctx, id)
	if err != nil {
		r.Problem = err.Error()
		return r
	}
	detail, err := s.describe(ctx, v)
	if err != nil {
		r.Problem = err.Error()
	}
	r.Layers = []readings.Layer{{Name: readings.LayerVolume, Size: v.Size, Detail: detail, ReadAt: began}}
	return r
}

// describe says which nodes have the volume, and what is wrong with it.
func (s *Server) describe(ctx context.Context, v volume.Volume) (string, error) {
	var parts []string
	switch {
	case s.attacher == nil:
	case len(v.Nodes) == 0:
		parts = append(parts, "not attached")
	default:
		parts = append(parts, "attached to "+strings.Join(v.Nodes, ", "))
	}
	if s.health == nil {
		return strings.Join(parts, "; "), nil
	}
	conditions, err := s.health.Health(ctx, v.ID)
	for _, c := range conditions {
		parts = append(parts, c.Message)
	}
	return strings.Join(parts, "; "), err
}

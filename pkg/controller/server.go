// Package controller is the CSI Controller service (CSI v1.13) over any
// volume.Backend. It validates requests, serializes work per volume, and
// refuses to report a size that the backend did not read back. What it
// advertises is derived from the interfaces that the backend implements, so
// that advertised and implemented cannot drift apart.
//
// Its errors are those of package volume; package csiserver gives them their
// gRPC codes.
package controller

import (
	"log/slog"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/growvol/growvol/pkg/volume"
)

// Options are the optional parts of a Server.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
}

// Server is the CSI Controller service of one backend.
type Server struct {
	csi.UnimplementedControllerServer // answers what later specifications add

	backend volume.Backend
	log     *slog.Logger
	locks   operation.Locks

	// The optional sides of the backend; nil: it has none.
	snapshotter    volume.Snapshotter
	snapshotLister volume.SnapshotLister
	cloner         volume.Cloner
	attacher       volume.Attacher
	lister         volume.Lister
	capacity       volume.CapacityReporter
	modifier       volume.Modifier
	health         volume.HealthReporter
	healthLister   volume.HealthLister
	hasTopology    bool
}

// New makes the service of a backend.
func New(backend volume.Backend, options Options) *Server {
	s := &Server{backend: backend, log: options.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.snapshotter = side[volume.Snapshotter](backend)
	s.snapshotLister = side[volume.SnapshotLister](backend)
	s.cloner = side[volume.Cloner](backend)
	s.attacher = side[volume.Attacher](backend)
	s.lister = side[volume.Lister](backend)
	s.capacity = side[volume.CapacityReporter](backend)
	s.modifier = side[volume.Modifier](backend)
	s.health = side[volume.HealthReporter](backend)
	s.healthLister = side[volume.HealthLister](backend)
	if aware := side[volume.TopologyAware](backend); aware != nil {
		s.hasTopology = aware.HasTopology()
	}
	return s
}

// side returns the backend as a T, or nil if it is none.
func side[T any](backend volume.Backend) T {
	t, _ := backend.(T)
	return t
}

// Keys of locks. Volumes are locked by their bare id.
func nameKey(name string) string         { return "name:" + name }
func snapshotKey(id string) string       { return "snapshot:" + id }
func snapshotNameKey(name string) string { return "snapshot-name:" + name }

// required refuses a request in which a field of the CSI specification that
// is REQUIRED is empty.
func required(field, value string) error {
	if value == "" {
		return volume.Errorf(volume.KindInvalid, "%s is missing in the request", field)
	}
	return nil
}

func unsupported(what string) error {
	return volume.Errorf(volume.KindUnsupported, "this storage backend cannot %s", what)
}

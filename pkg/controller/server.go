// Package controller is the CSI Controller, GroupController and SnapshotMetadata services (CSI
// v1.13), and the ReclaimSpaceController service of csi-addons, over any volume.Backend.
// It validates requests, runs one operation per volume at a time, and never reports a
// size that the backend has not read back. It derives the advertised capabilities from
// the interfaces that the backend implements, so that advertised and implemented cannot
// differ.
//
// New returns the Server, which growvol-controller serves through package csiserver. Each
// RPC follows the same steps: parse and check the request, lock the volume, call the
// backend, check its answer, convert it. Errors are those of package volume; package
// csiserver converts their kinds into gRPC codes.
package controller

import (
	"cmp"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/csi-addons/spec/lib/go/reclaimspace"

	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// Options are the optional parts of a Server.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
}

// Server is the CSI Controller, GroupController and SnapshotMetadata services of one backend, and
// the ReclaimSpaceController service of csi-addons.
type Server struct {
	// These answer the RPCs that later specifications add.
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer
	csi.UnimplementedSnapshotMetadataServer
	reclaimspace.UnimplementedReclaimSpaceControllerServer

	backend volume.Backend
	log     *slog.Logger
	locks   operation.Locks

	// The optional interfaces of the backend; nil: it does not implement them.
	snapshotter    volume.Snapshotter
	snapshotLister volume.SnapshotLister
	cloner         volume.Cloner
	attacher       volume.Attacher
	lister         volume.Lister
	capacity       volume.CapacityReporter
	modifier       volume.Modifier
	health         volume.HealthReporter
	healthLister   volume.HealthLister
	groups         volume.GroupSnapshotter
	blocks         volume.BlockTracker
	reclaimer      volume.SpaceReclaimer
}

// New returns the service of a backend.
func New(backend volume.Backend, options Options) *Server {
	s := &Server{backend: backend, log: cmp.Or(options.Log, slog.New(slog.DiscardHandler))}
	s.snapshotter, _ = backend.(volume.Snapshotter)
	s.snapshotLister, _ = backend.(volume.SnapshotLister)
	s.cloner, _ = backend.(volume.Cloner)
	s.attacher, _ = backend.(volume.Attacher)
	s.lister, _ = backend.(volume.Lister)
	s.capacity, _ = backend.(volume.CapacityReporter)
	s.modifier, _ = backend.(volume.Modifier)
	s.health, _ = backend.(volume.HealthReporter)
	s.healthLister, _ = backend.(volume.HealthLister)
	s.groups, _ = backend.(volume.GroupSnapshotter)
	s.blocks, _ = backend.(volume.BlockTracker)
	s.reclaimer, _ = backend.(volume.SpaceReclaimer)
	return s
}

// Keys of locks. The key of a volume is its id.
func nameKey(name string) string         { return "name:" + name }
func snapshotKey(id string) string       { return "snapshot:" + id }
func snapshotNameKey(name string) string { return "snapshot-name:" + name }
func reclaimKey(id string) string        { return "reclaim:" + id }
func groupKey(id string) string          { return "group:" + id }
func groupNameKey(name string) string    { return "group-name:" + name }

// checkRequired returns an error of kind Invalid if value is empty; field is REQUIRED in
// the CSI specification.
func checkRequired(field, value string) error {
	if value == "" {
		return volume.Errorf(volume.KindInvalid, "%s is missing from the request", field)
	}
	return nil
}

// checkTopology returns an error of kind Invalid if the request has a topology but the
// backend has none.
func (s *Server) checkTopology(field string, isSet bool) error {
	if isSet && !s.backend.HasTopology() {
		return volume.Errorf(volume.KindInvalid,
			"%s is set, but volumes of this backend can be reached from everywhere", field)
	}
	return nil
}

func unsupportedError(what string) error {
	return volume.Errorf(volume.KindUnsupported, "this storage backend cannot %s", what)
}

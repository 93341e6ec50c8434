// Package cinder is the backend of OpenStack: Cinder keeps the volumes, Nova attaches them to
// servers.
//
// Cinder does most of its work after it has answered, and a settled state does not mean that it
// did the work: a refused extension restores the old state. So every operation of this package ends
// by reading the result itself (the size, the type, the absence), not only the state.
//
// It is a drop-in for cinder-csi-plugin: volume handles are Cinder's ids, and StorageClass
// parameters, metadata keys, the topology key and cloud.conf are those of that driver.
//
// Begin with New in this file. Each RPC is in the file of its name (create.go, expand.go, …), where
// it decides what to do and calls the API through internal/cloud. What several RPCs need, or what
// has rules of its own, is in a package below internal: see docs/explanation/architecture.md.
package cinder

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/attempt"
	"github.com/growvol/growvol/pkg/cinder/internal/catalog"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/copies"
	"github.com/growvol/growvol/pkg/cinder/internal/duplicates"
	"github.com/growvol/growvol/pkg/cinder/internal/locate"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cinder/internal/poll"
	"github.com/growvol/growvol/pkg/cinder/internal/snapshot"
	"github.com/growvol/growvol/pkg/cinder/internal/state"
	"github.com/growvol/growvol/pkg/volume"
)

// granularity is the unit of Cinder's sizes.
const granularity = volume.GiB

// CloudOptions say where the clouds and their credentials are configured.
type CloudOptions = cloud.Options

// Options configure a Backend.
type Options struct {
	Clouds CloudOptions
	// ClusterID is written into the metadata of this cluster's volumes. Listings and searches by
	// name ignore the volumes of other clusters. Empty: listings have all volumes of the project.
	ClusterID string
	// Topology: only the servers of a volume's availability zone can reach the volume.
	Topology bool
	// IgnoreVolumeAZ lets Cinder choose the availability zone, for clouds whose Cinder zones and
	// Nova zones are independent.
	IgnoreVolumeAZ bool
	// NotifyNova makes the backend notify Nova that a volume in use has grown, for clouds whose
	// Cinder lacks the permission to do it.
	NotifyNova bool
	Log        *slog.Logger          // nil: no log
	Registerer prometheus.Registerer // for the metrics of the clouds and of duplicate volumes; nil: no metrics
}

// Backend keeps volumes in Cinder. It implements volume.Backend and, of the optional interfaces of
// package volume, Abandoner, Snapshotter, Cloner, Attacher, Lister, SnapshotLister,
// CapacityReporter, Modifier and HealthLister. New makes one.
type Backend struct {
	*snapshots

	opts    Options
	log     *slog.Logger
	clouds  *cloud.Clouds
	locator *locate.Locator
	pollers *poll.Group

	catalog    catalog.Catalog
	copies     *copies.Copies
	attempts   attempt.Attempts // to create volumes
	duplicates *duplicates.Detector
	statics    statics
	notified   sync.Map // volume.Size that Nova was last notified of, by volume id

	mu          sync.Mutex
	recentFinds map[string]findResult // by cloud and name of the request
}

// snapshots has the methods of Snapshotter and SnapshotLister, except Restore.
type snapshots = snapshot.Service

// New reads the configuration and connects to the default cloud.
func New(ctx context.Context, o Options) (*Backend, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clouds.Log == nil {
		o.Clouds.Log = o.Log
	}
	if o.Clouds.Registerer == nil {
		o.Clouds.Registerer = o.Registerer
	}
	detector, err := duplicates.New(o.Log, o.ClusterID, o.Registerer)
	if err != nil {
		return nil, err
	}
	clouds, err := cloud.Open(ctx, o.Clouds)
	if err != nil {
		return nil, volume.Wrap(err, "connect to OpenStack", "")
	}
	b := &Backend{
		opts: o, log: o.Log, clouds: clouds, locator: locate.New(clouds), pollers: poll.NewGroup(o.Log),
		duplicates: detector, recentFinds: make(map[string]findResult),
	}
	b.copies = copies.New(b.pollers)
	b.snapshots = snapshot.New(o.ClusterID, b.locator, b.copies, o.Log)
	return b, nil
}

// ReportAPIVersions exports and logs which API versions Cinder and Nova offer, until ctx ends. No
// other method waits for it.
func (b *Backend) ReportAPIVersions(ctx context.Context) { b.clouds.ReportVersions(ctx) }

// Close drops the connections. Running calls fail.
func (b *Backend) Close() { b.clouds.Close() }

// HasTopology implements volume.Backend.
func (b *Backend) HasTopology() bool { return b.opts.Topology }

// Limits implements volume.Backend. It sets no maximum, because that depends on the volume type and
// the quota: Cinder checks both.
func (*Backend) Limits() volume.Limits {
	return volume.Limits{Granularity: granularity, Min: granularity, Default: granularity}
}

// AccessModes implements volume.Backend. Only volumes of a type with multiattach have the modes for
// several nodes; volume.Volume.AccessModes says which modes a volume has.
func (*Backend) AccessModes() []volume.AccessMode {
	return append(singleNodeModes(), multiNodeModes()...)
}

func singleNodeModes() []volume.AccessMode {
	return []volume.AccessMode{
		volume.AccessSingleNodeWriter, volume.AccessSingleNodeReaderOnly,
		volume.AccessSingleNodeSingleWriter, volume.AccessSingleNodeMultiWriter,
	}
}

func multiNodeModes() []volume.AccessMode {
	return []volume.AccessMode{
		volume.AccessMultiNodeReaderOnly, volume.AccessMultiNodeSingleWriter, volume.AccessMultiNodeMultiWriter,
	}
}

// CheckHealth implements volume.Backend: it succeeds if the backend is logged in to the
// default cloud. Once logged in it sends no request: probes come every few seconds, and an outage
// of one service is no reason to restart the plugin. Kind InProgress: Keystone has not answered
// yet.
func (b *Backend) CheckHealth(ctx context.Context) error { return b.clouds.Ready(ctx) }

// read returns the cloud of a volume, and the volume as Cinder shows it.
func (b *Backend) read(ctx context.Context, id string) (*cloud.Cloud, cloud.Volume, error) {
	c, err := b.locator.Volume(ctx, id)
	if err != nil {
		return nil, cloud.Volume{}, err
	}
	v, err := c.Volume(ctx, id)
	return c, v, err
}

// awaitIdle waits until no operation of Cinder on the volume is running, except a deletion. Kind
// InProgress: ctx ended first.
func (b *Backend) awaitIdle(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	if state.IsIdle(v) {
		return v, nil
	}
	idle, err := b.pollers.Await(ctx, c, v.ID, v.Status, state.IsIdle)
	if volume.IsKind(err, volume.KindDeadline) {
		err = volume.Errorf(volume.KindInProgress, "the volume is %s: %w", v.Status, err).
			WithRemedy(message.IfPersists + "ask the cloud operator which operation keeps the volume " +
				"in this state")
	}
	return idle, err
}

// forget drops what the backend remembers of a volume that is gone.
func (b *Backend) forget(id string) {
	b.locator.Forget(id)
	b.copies.Forget(id)
	b.statics.remove(id)
	b.notified.Delete(id)
}

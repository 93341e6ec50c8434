// Package cinder is the backend of OpenStack: Cinder keeps the volumes, Nova attaches them to
// servers.
//
// Cinder does most of its work after it has answered, and a settled state does not mean that it
// did the work: a refused extension restores the old state. So every operation of this package ends
// by reading the result itself (the size, the type, the absence), never the state alone.
//
// It is a drop-in for cinder-csi-plugin: volume handles are Cinder's ids, and StorageClass
// parameters, metadata keys, the topology key and cloud.conf are those of that driver.
//
// The package reads top-down: an RPC in the file of its name (create.go, expand.go, …) decides what
// to do, and asks the API through internal/cloud. What several RPCs need, or what has rules of its
// own, is in a package below internal: see the picture in docs/explanation/architecture.md.
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
	// ClusterID marks the volumes of this cluster in their metadata, and limits listings and names
	// to them. Empty: listings have every volume of the project.
	ClusterID string
	// Topology says that volumes can be reached from the servers of their availability zone only.
	Topology bool
	// IgnoreVolumeAZ leaves the availability zone to Cinder, for clouds whose zones of Cinder and
	// Nova have nothing to do with each other.
	IgnoreVolumeAZ bool
	// NotifyNova makes the backend itself tell Nova that a volume in use has grown, for clouds whose
	// Cinder may not.
	NotifyNova bool
	Log        *slog.Logger          // nil: none
	Registerer prometheus.Registerer // metrics of the API calls and of duplicate volumes; nil: none
}

// Backend keeps volumes in Cinder. It implements volume.Backend, Abandoner, Snapshotter, Cloner,
// Attacher, Lister, SnapshotLister, CapacityReporter, Modifier and HealthLister.
// New makes one.
type Backend struct {
	opts    Options
	log     *slog.Logger
	clouds  *cloud.Clouds
	locator *locate.Locator
	pollers *poll.Group
	reasons message.Finder

	catalog    catalog.Catalog
	copies     *copies.Copies
	attempts   attempt.Attempts // to create volumes
	snapshots  *snapshot.Service
	duplicates *duplicates.Detector
	statics    statics

	mu       sync.Mutex
	notified map[string]volume.Size // by id of the volume: the size that Nova was told
	lookups  map[string]lookup      // by cloud and name of the request: what Find saw last
}

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
		return nil, volume.Wrap(err, "open the clouds", "")
	}
	b := &Backend{
		opts: o, log: o.Log, clouds: clouds, locator: locate.New(clouds), pollers: poll.NewGroup(o.Log),
		reasons: message.Finder{Log: o.Log}, duplicates: detector,
		notified: make(map[string]volume.Size), lookups: make(map[string]lookup),
	}
	b.copies = copies.New(b.pollers)
	b.snapshots = snapshot.New(o.ClusterID, b.locator, b.copies, o.Log)
	return b, nil
}

// Close drops the connections. Running calls fail.
func (b *Backend) Close() { b.clouds.Close() }

// HasTopology implements volume.Backend.
func (b *Backend) HasTopology() bool { return b.opts.Topology }

// Limits implements volume.Backend. It has no maximum: that depends on the type and the quota,
// which Cinder judges.
func (*Backend) Limits() volume.Limits {
	return volume.Limits{Granularity: granularity, Min: granularity, Default: granularity}
}

// AccessModes implements volume.Backend. Modes for several nodes need a type with multiattach; see
// volume.Volume.AccessModes.
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

// CheckHealth implements volume.Backend: it succeeds if there is a login to the default
// cloud. It calls no API after that: a probe every few seconds must not become load on the cloud,
// and an outage of one service is no reason to restart the plugin. Kind InProgress: Keystone has
// not answered yet.
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

// awaitIdle waits until Cinder does nothing with the volume except delete it.
func (b *Backend) awaitIdle(ctx context.Context, c *cloud.Cloud, v cloud.Volume) (cloud.Volume, error) {
	if state.IsIdle(v) {
		return v, nil
	}
	idle, err := b.pollers.Await(ctx, c, v.ID, v.Status, state.IsIdle)
	if volume.IsKind(err, volume.KindDeadline) {
		err = volume.Errorf(volume.KindInProgress, "the volume is %s: %w", v.Status, err).
			WithRemedy(message.Retries + "; if it lasts, check what works on the volume in the cloud")
	}
	return idle, err
}

// forget drops what the backend remembers of a volume that is gone.
func (b *Backend) forget(id string) {
	b.locator.Forget(id)
	b.copies.Forget(id)
	b.statics.remove(id)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.notified, id)
}

// Package cinder is the backend of OpenStack: Cinder keeps the volumes, Nova
// plugs them into servers.
//
// Cinder does most things asynchronously, and a status that has settled does
// not mean that the thing was done: a refused extension puts the old status
// back. So every operation here ends with a reading of what was asked for
// itself (the size, the type, the absence), never of the status alone.
//
// It is a drop-in for cinder-csi-plugin: volume handles are Cinder's ids, and
// StorageClass parameters, metadata keys, the topology key and cloud.conf are
// those that it uses.
package cinder

import (
	"cmp"
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// granule is what Cinder counts in.
const granule = volume.GiB

// secretCloud is the key of the request's secrets that names the cloud, as
// cinder-csi-plugin has it.
const secretCloud = "cloud"

// CloudOptions say where the clouds and their credentials are configured.
type CloudOptions = cloud.Options

// Options configure a Backend.
type Options struct {
	Clouds CloudOptions
	// ClusterID marks the volumes of this cluster in their metadata, and
	// scopes listings and names to them. Empty: every volume of the project is
	// listed.
	ClusterID string
	// Topology says that volumes can be reached from the servers of their
	// availability zone only.
	Topology bool
	// IgnoreVolumeAZ leaves the availability zone to Cinder, for clouds whose
	// zones of Cinder and Nova have nothing to do with each other.
	IgnoreVolumeAZ bool
	// NotifyNova makes the backend tell Nova itself that a volume in use has
	// grown, for clouds whose Cinder may not.
	NotifyNova bool
	Log        *slog.Logger          // nil: none
	Registerer prometheus.Registerer // metrics of the API calls and of duplicate volumes; nil: none
}

// Backend keeps volumes in Cinder. It implements volume.Backend, Snapshotter,
// Cloner, Attacher, Lister, SnapshotLister, CapacityReporter, Modifier,
// TopologyAware, HealthLister and HealthChecker.
type Backend struct {
	clouds *cloud.Clouds
	opts   Options
	log    *slog.Logger

	mu      sync.Mutex
	homes   map[string]string   // cloud by volume or snapshot id, as far as it was found out
	pollers map[string]*poller  // by cloud
	catalog map[string]*catalog // by cloud
	limits  map[string]*limits  // by cloud
	statics statics
	copies  copies
	told    map[string]volume.Size // by volume: the size that Nova was told of
	lookups map[string]lookup      // by cloud and name, as in the request

	attempts         attempts // to make volumes
	snapshotAttempts attempts // to take snapshots and backups
	duplicates       *duplicates
}

// HasTopology implements volume.TopologyAware.
func (b *Backend) HasTopology() bool { return b.opts.Topology }

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
	duplicates, err := newDuplicates(o.Log, o.ClusterID, o.Registerer)
	if err != nil {
		return nil, err
	}
	clouds, err := cloud.Open(ctx, o.Clouds)
	if err != nil {
		return nil, volume.Wrap(err, "open the clouds", "")
	}
	return &Backend{
		clouds: clouds, opts: o, log: o.Log,
		homes: make(map[string]string), pollers: make(map[string]*poller), catalog: make(map[string]*catalog),
		limits: make(map[string]*limits), copies: make(copies), told: make(map[string]volume.Size),
		lookups: make(map[string]lookup), duplicates: duplicates,
	}, nil
}

// Close drops the connections. Calls that are under way fail.
func (b *Backend) Close() { b.clouds.Close() }

// Limits implements volume.Backend. How large a volume may get is a matter of
// its type and the quota, which Cinder judges.
func (*Backend) Limits() volume.Limits {
	return volume.Limits{Granularity: granule, Min: granule, Default: granule}
}

// AccessModes implements volume.Backend. The modes for several nodes are for
// volumes of a type with multiattach only; see volume.Volume.AccessModes.
func (*Backend) AccessModes() []volume.AccessMode { return append(singleNode(), multiNode()...) }

func singleNode() []volume.AccessMode {
	return []volume.AccessMode{
		volume.AccessSingleNodeWriter, volume.AccessSingleNodeReaderOnly, volume.AccessSingleNodeSingleWriter, volume.AccessSingleNodeMultiWriter,
	}
}

func multiNode() []volume.AccessMode {
	return []volume.AccessMode{volume.AccessMultiNodeReaderOnly, volume.AccessMultiNodeSingleWriter, volume.AccessMultiNodeMultiWriter}
}

// CheckHealth implements volume.HealthChecker: there is a login to the default
// cloud. It calls no API once there is, because a probe every few seconds must
// not become load on the cloud, and because an outage of one service is no
// reason to restart the plugin. Kind InProgress: Keystone has not answered yet.
func (b *Backend) CheckHealth(ctx context.Context) error { return b.clouds.Ready(ctx) }

// cloudOf returns the cloud that a volume is in: the one that the request
// names, or the one where it was found before, or the only one. With several
// clouds each is asked, the default first; a volume that is in none of them
// counts as one of the default, whose answer the caller gets.
func (b *Backend) cloudOf(ctx context.Context, id string) (*cloud.Cloud, error) {
	return b.locate(ctx, id, func(ctx context.Context, c *cloud.Cloud) error {
		_, err := c.Volume(ctx, id)
		return err
	})
}

// locate is cloudOf for any object: find reads it from one cloud and returns
// an error of kind NotFound if it is not there. What no cloud has is not known
// to be gone while one of them cannot be asked: then that one's error is
// returned. A cloud that does not answer takes a part of the caller's time only,
// for the object may be in one of the others.
func (b *Backend) locate(ctx context.Context, id string, find func(context.Context, *cloud.Cloud) error) (*cloud.Cloud, error) {
	names := b.clouds.Names()
	if home := b.home(ctx, id); home != "" || len(names) < 2 {
		return b.clouds.Cloud(ctx, home)
	}
	var first *cloud.Cloud
	var silent error
	seen := make(map[string]bool)
	for _, name := range names {
		limited, cancel := context.WithTimeout(ctx, patience(ctx))
		c, err := b.clouds.Cloud(limited, name)
		if err == nil {
			if seen[c.ProjectKey()] {
				cancel()
				continue
			}
			seen[c.ProjectKey()] = true
			first = cmp.Or(first, c)
			err = find(limited, c)
		}
		cancel()
		if volume.IsKind(err, volume.KindDeadline) && ctx.Err() == nil {
			err = volume.Errorf(volume.KindUnavailable, "the cloud %q, in which it may be, does not answer: %w", name, err)
		}
		switch {
		case err == nil:
			b.settle(id, name)
			return c, nil
		case !volume.IsKind(err, volume.KindNotFound) && silent == nil:
			silent = err
		}
	}
	return first, silent
}

// places connects to all usable clouds, and returns one for each project, that
// of the default cloud first. One whose description was broken from the start
// can hold nothing that was attached through us; one that does not answer may,
// and so its error is returned.
func (b *Backend) places(ctx context.Context) ([]*cloud.Cloud, error) {
	ctx, cancel := answerable(ctx)
	defer cancel()
	var places []*cloud.Cloud
	seen := make(map[string]bool)
	for i, name := range b.clouds.Names() {
		if i > 0 && !b.clouds.IsUsable(name) {
			continue // logged when the configuration was read
		}
		c, err := b.clouds.Cloud(ctx, name)
		if err != nil {
			return nil, err
		}
		if !seen[c.ProjectKey()] {
			seen[c.ProjectKey()] = true
			places = append(places, c)
		}
	}
	return places, nil
}

// home names the cloud of an object as far as it is known.
func (b *Backend) home(ctx context.Context, id string) string {
	if name := volume.SecretsFrom(ctx)[secretCloud]; name != "" {
		return name
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.homes[id]
}

// settle remembers in which cloud an object is. With one cloud there is
// nothing to remember.
func (b *Backend) settle(id, name string) {
	if len(b.clouds.Names()) < 2 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.homes[id] = name
}

// forget drops what is remembered of an object that has gone.
func (b *Backend) forget(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.homes, id)
	b.statics.drop(id)
	delete(b.copies, id)
	delete(b.told, id)
}

// await waits until done says that the volume is as wanted, and returns it as
// read then. done's error ends the wait. op names the operation ("extend"):
// how long those have taken decides when to look first. A volume that has
// vanished gives kind NotFound; the end of ctx gives Deadline or Canceled and
// the state last seen. done is called on the caller's goroutine.
//
// All waits of a cloud share one poller.
func (b *Backend) await(ctx context.Context, c *cloud.Cloud, id, op string, done func(cloud.Volume) (bool, error)) (cloud.Volume, error) {
	return b.pollerOf(c).await(ctx, id, op, done)
}

func (b *Backend) pollerOf(c *cloud.Cloud) *poller {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pollers[c.Name()]
	if p == nil {
		p = newPoller(c, b.log)
		b.pollers[c.Name()] = p
	}
	return p
}

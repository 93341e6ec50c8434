// Package fakebackend is a storage backend in memory for tests of the controller. It
// implements every interface of package volume and changes its state as a real backend
// does. Tests wrap it to remove an interface or to replace a method.
package fakebackend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/growvol/growvol/pkg/volume"
)

// TopologyKey is the topology segment that holds the zone.
const TopologyKey = "topology.fake.growvol.io/zone"

// Backend is the fake. Make it with New. Its methods may be called concurrently.
type Backend struct {
	mu         sync.Mutex
	lastID     int
	limits     volume.Limits
	zones      []string
	slots      map[string]int // attachment slots by node
	volumes    map[string]volume.Volume
	accesses   map[string]volume.Access // of attachments, by "volume/node"
	tiers      map[string]string        // the mutable parameter, by volume
	conditions map[string][]volume.Condition
	snapshots  map[string]volume.Snapshot
	written    map[string]map[volume.Size]int // numbers of the last write, by volume and offset
	contents   map[string]map[volume.Size]int // written at the time of a snapshot, by snapshot
	calls      map[string]int
}

// New returns a fake with the zones a and b, and the nodes node-1 (2 slots) and node-2
// (100 slots). Volumes have multiples of 1 MiB from 1 MiB to 1 TiB; 1 GiB by default.
func New() *Backend {
	return &Backend{
		limits:     volume.Limits{Granularity: volume.MiB, Min: volume.MiB, Max: volume.TiB, Default: volume.GiB},
		zones:      []string{"a", "b"},
		slots:      map[string]int{"node-1": 2, "node-2": 100},
		volumes:    make(map[string]volume.Volume),
		accesses:   make(map[string]volume.Access),
		tiers:      make(map[string]string),
		conditions: make(map[string][]volume.Condition),
		snapshots:  make(map[string]volume.Snapshot),
		written:    make(map[string]map[volume.Size]int),
		contents:   make(map[string]map[volume.Size]int),
		calls:      make(map[string]int),
	}
}

// Calls returns how often the method (Create, Delete or Expand) was called. Of Expand only
// the calls that changed the size count.
func (b *Backend) Calls(method string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[method]
}

// Limits implements volume.Backend.
func (b *Backend) Limits() volume.Limits { return b.limits }

// AccessModes implements volume.Backend.
func (*Backend) AccessModes() []volume.AccessMode {
	return []volume.AccessMode{
		volume.AccessSingleNodeWriter, volume.AccessSingleNodeReaderOnly, volume.AccessSingleNodeSingleWriter,
		volume.AccessSingleNodeMultiWriter,
		volume.AccessMultiNodeMultiWriter,
	}
}

// HasTopology implements volume.Backend.
func (*Backend) HasTopology() bool { return true }

// CheckHealth implements volume.Backend.
func (*Backend) CheckHealth(context.Context) error { return nil }

// Find implements volume.Backend.
func (b *Backend) Find(_ context.Context, req volume.CreateRequest) (volume.Volume, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.find(req.Name)
	return v, ok, nil
}

func (b *Backend) find(name string) (volume.Volume, bool) {
	for _, v := range b.volumes {
		if v.Name == name {
			return v.Clone(), true
		}
	}
	return volume.Volume{}, false
}

// Create implements volume.Backend.
func (b *Backend) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls["Create"]++
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	if err := checkParameters(req.Parameters); err != nil {
		return volume.Volume{}, err
	}
	if err := checkTier(req.MutableParameters); err != nil {
		return volume.Volume{}, err
	}
	if v, ok := b.find(req.Name); ok {
		return v, checkExisting(v, req)
	}
	zone, err := b.chooseZone(req)
	if err != nil {
		return volume.Volume{}, err
	}
	b.lastID++
	v := volume.Volume{
		ID: fmt.Sprintf("vol-%d", b.lastID), Name: req.Name, Size: req.Size, Source: req.Source,
		Topology: []volume.Topology{{TopologyKey: zone}}, VolumeContext: map[string]string{"pool": "fake"},
		Encrypted: req.Encrypted,
	}
	b.volumes[v.ID] = v
	b.tiers[v.ID] = req.MutableParameters["tier"]
	return v.Clone(), nil
}

func checkExisting(v volume.Volume, req volume.CreateRequest) error {
	outside := v.Size < req.Range.Required || (req.Range.Limit > 0 && v.Size > req.Range.Limit)
	if outside || v.Source != req.Source || v.Encrypted != req.Encrypted {
		return volume.Errorf(volume.KindAlreadyExists, "volume %s has this name and %s", v.ID, v.Size)
	}
	return nil
}

func (b *Backend) chooseZone(req volume.CreateRequest) (string, error) {
	for _, wanted := range [][]volume.Topology{req.Preferred, req.Requisite} {
		for _, t := range wanted {
			if slices.Contains(b.zones, t[TopologyKey]) {
				return t[TopologyKey], nil
			}
		}
	}
	if len(req.Requisite) > 0 {
		return "", volume.Errorf(volume.KindExhausted, "none of the requisite zones is one of %v", b.zones)
	}
	return b.zones[0], nil
}

// Restore implements volume.Snapshotter.
func (b *Backend) Restore(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	if _, exists, _ := b.Find(ctx, req); !exists {
		if _, err := b.GetSnapshot(ctx, req.Source.SnapshotID); err != nil {
			return volume.Volume{}, err
		}
	}
	return b.Create(ctx, req)
}

// CloneVolume implements volume.Cloner.
func (b *Backend) CloneVolume(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	if _, exists, _ := b.Find(ctx, req); !exists {
		if _, err := b.Get(ctx, req.Source.VolumeID); err != nil {
			return volume.Volume{}, err
		}
	}
	return b.Create(ctx, req)
}

// Delete implements volume.Backend.
func (b *Backend) Delete(_ context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls["Delete"]++
	if nodes := b.volumes[id].Nodes; len(nodes) > 0 {
		return volume.Errorf(volume.KindPrecondition, "it is attached to %v", nodes)
	}
	delete(b.volumes, id)
	return nil
}

// Get implements volume.Backend.
func (b *Backend) Get(_ context.Context, id string) (volume.Volume, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.get(id)
}

func (b *Backend) get(id string) (volume.Volume, error) {
	v, ok := b.volumes[id]
	if !ok {
		return volume.Volume{}, volume.Errorf(volume.KindNotFound, "there is no such volume")
	}
	return v.Clone(), nil
}

// Expand implements volume.Backend.
func (b *Backend) Expand(ctx context.Context, id string, target volume.Size) (volume.Volume, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := b.get(id)
	if err != nil || v.Size >= target {
		return v, err
	}
	if err := ctx.Err(); err != nil {
		return volume.Volume{}, err
	}
	b.calls["Expand"]++
	v.Size = target
	b.volumes[id] = v
	return v.Clone(), nil
}

// checkParameters returns an error of kind Invalid for parameters other than mkfsOptions.
func checkParameters(class map[string]string) error {
	for key := range class {
		if key != "mkfsOptions" && !strings.HasPrefix(key, "csi.storage.k8s.io/") {
			return volume.Errorf(volume.KindInvalid, "the parameter %s of the class is unknown", key)
		}
	}
	return nil
}

func checkTier(mutable map[string]string) error {
	for key, value := range mutable {
		if key != "tier" || (value != "gold" && value != "silver") {
			return volume.Errorf(volume.KindInvalid,
				"the mutable parameter %s=%s is unknown: want tier=gold or tier=silver", key, value)
		}
	}
	return nil
}

// Modify implements volume.Modifier.
func (b *Backend) Modify(_ context.Context, id string, parameters map[string]string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.get(id); err != nil {
		return err
	}
	if err := checkTier(parameters); err != nil {
		return err
	}
	b.tiers[id] = parameters["tier"]
	return nil
}

// Tier returns the mutable parameter "tier" of a volume.
func (b *Backend) Tier(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tiers[id]
}

// Impair makes a volume report a condition from now on.
func (b *Backend) Impair(id string, c volume.Condition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conditions[id] = append(b.conditions[id], c)
}

// Health implements volume.HealthReporter.
func (b *Backend) Health(_ context.Context, id string) ([]volume.Condition, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.get(id)
	return slices.Clone(b.conditions[id]), err
}

// ListHealth implements volume.HealthLister. As with a cloud, it reads a page of volumes
// and leaves out those without a condition, so a page may be empty.
func (b *Backend) ListHealth(ctx context.Context, page volume.Page) ([]volume.Health, string, error) {
	volumes, next, err := b.ListVolumes(ctx, page)
	if err != nil {
		return nil, "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var impaired []volume.Health
	for _, v := range volumes {
		if conditions := b.conditions[v.ID]; len(conditions) > 0 {
			impaired = append(impaired, volume.Health{ID: v.ID, Conditions: slices.Clone(conditions)})
		}
	}
	return impaired, next, nil
}

// Capacity implements volume.CapacityReporter: 10 TiB less what is in use.
func (b *Backend) Capacity(_ context.Context, req volume.CapacityRequest) (volume.Capacity, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := checkParameters(req.Parameters); err != nil {
		return volume.Capacity{}, err
	}
	if zone, ok := req.Topology[TopologyKey]; ok && !slices.Contains(b.zones, zone) {
		return volume.Capacity{}, nil
	}
	free := 10 * volume.TiB
	for _, v := range b.volumes {
		free -= v.Size
	}
	return volume.Capacity{Available: free, MaxVolumeSize: b.limits.Max, MinVolumeSize: b.limits.Min}, nil
}

package cinder

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// unlimited stands for a project without a quota: all that Cinder's number of
// GiB, of 32 bits, can express. CSI has no word for it, and zero would mean
// that there is no room.
const unlimited = volume.Size(math.MaxInt32) * granule

// Capacity implements volume.CapacityReporter: what the quota of the project
// leaves. The room in the storage itself is told to administrators only. There
// is none where Cinder has no such zone, and none for several nodes at once
// with a type that is not shareable.
func (b *Backend) Capacity(ctx context.Context, req volume.CapacityRequest) (volume.Capacity, error) {
	room, err := b.capacity(ctx, req)
	return room, volume.Wrap(err, "read the capacity", "")
}

func (b *Backend) capacity(ctx context.Context, req volume.CapacityRequest) (volume.Capacity, error) {
	want, err := b.parameters(req.Parameters)
	if err != nil {
		return volume.Capacity{}, err
	}
	c, err := b.clouds.Cloud(ctx, want.cloud)
	if err != nil {
		return volume.Capacity{}, err
	}
	room := volume.Capacity{Min: granule}
	if served, err := b.servesZone(ctx, c, want.zone, req.Topology[cindercsi.TopologyKey]); err != nil || !served {
		return room, err
	}
	t, err := b.typeNamed(ctx, c, want.volType)
	if err != nil {
		return room, err
	}
	shared := slices.ContainsFunc(req.Accesses, func(a volume.Access) bool { return a.Mode.IsMultiNode() })
	if shared && !t.Multiattach {
		return room, nil
	}
	limits, err := b.limitsOf(ctx, c)
	if err != nil {
		return room, err
	}
	room.Min = max(granule, volume.Size(t.MinGiB)*granule)
	room.Max = smallest(limits.MaxVolumeGiB, t.MaxGiB)
	room.Available = left(limits)
	return room, nil
}

// limitsAge is for how long the limits of a project are remembered:
// external-provisioner asks for the capacity once for each StorageClass and
// zone, all at once, and the limits are the same for all of them.
const limitsAge = 10 * time.Second

// limits are the limits of a cloud's project.
type limits struct {
	turn turn // guards the rest
	last cloud.Limits
	at   time.Time // when the cloud was asked
}

// limitsOf returns the limits of a cloud's project, which are up to limitsAge
// old. Calls at the same time ask once. An error is not remembered.
func (b *Backend) limitsOf(ctx context.Context, c *cloud.Cloud) (cloud.Limits, error) {
	b.mu.Lock()
	l := b.limits[c.Name()]
	if l == nil {
		l = &limits{turn: newTurn()}
		b.limits[c.Name()] = l
	}
	b.mu.Unlock()
	if err := l.turn.enter(ctx, "the limits of the project"); err != nil {
		return cloud.Limits{}, err
	}
	defer l.turn.leave()
	if time.Since(l.at) <= limitsAge {
		return l.last, nil
	}
	at := time.Now()
	last, err := c.Limits(ctx)
	if err == nil {
		l.last, l.at = last, at
	}
	return last, err
}

// servesZone tells whether a class can have volumes in the zone of a label.
func (b *Backend) servesZone(ctx context.Context, c *cloud.Cloud, class, label string) (bool, error) {
	if label == "" || b.ignoresZones() {
		return true, nil
	}
	if class != "" && cindercsi.ZoneLabel(class) != label {
		return false, nil
	}
	zones, err := b.zonesOf(ctx, c)
	return slices.ContainsFunc(zones, func(zone string) bool { return cindercsi.ZoneLabel(zone) == label }), err
}

// left is what a quota leaves; a negative limit is none.
func left(l cloud.Limits) volume.Size {
	if l.MaxVolumes >= 0 && l.Volumes >= l.MaxVolumes {
		return 0
	}
	if l.MaxGiB < 0 {
		return unlimited
	}
	return volume.Size(max(0, l.MaxGiB-max(0, l.GiB))) * granule
}

// smallest is the smallest of some limits in GiB, of which those that are not
// positive are none; zero: there is no limit.
func smallest(limits ...int) volume.Size {
	var least volume.Size
	for _, l := range limits {
		if size := volume.Size(l) * granule; l > 0 && (least == 0 || size < least) {
			least = size
		}
	}
	return least
}

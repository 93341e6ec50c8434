package cinder

import (
	"context"
	"math"
	"slices"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// Capacity implements volume.CapacityReporter: it reports what the quota of the project leaves.
// (Only administrators can read what the storage itself has left.) The capacity is zero if Cinder
// lacks the zone, the StorageClass sets another zone, or the accesses need multiattach and the
// volume type does not allow it.
func (b *Backend) Capacity(ctx context.Context, req volume.CapacityRequest) (volume.Capacity, error) {
	capacity, err := b.capacity(ctx, req)
	return capacity, volume.Wrap(err, "read the capacity", "")
}

func (b *Backend) capacity(ctx context.Context, req volume.CapacityRequest) (volume.Capacity, error) {
	want, err := class.ParseStorage(req.Parameters, b.opts.ClusterID)
	if err != nil {
		return volume.Capacity{}, err
	}
	c, err := b.clouds.Cloud(ctx, want.Cloud)
	if err != nil {
		return volume.Capacity{}, err
	}
	capacity := volume.Capacity{MinVolumeSize: granularity}
	if hasZone, err := b.hasZone(ctx, c, want.Zone, req.Topology[cindercsi.TopologyKey]); err != nil || !hasZone {
		return capacity, err
	}
	t, err := b.catalog.Type(ctx, c, want.Type)
	if err != nil {
		return capacity, err
	}
	if isForSeveralNodes(req.Accesses) && !t.Multiattach {
		return capacity, nil
	}
	limits, err := b.catalog.Limits(ctx, c)
	if err != nil {
		return capacity, err
	}
	capacity.MinVolumeSize = max(granularity, volume.Size(t.MinGiB)*granularity)
	capacity.MaxVolumeSize = smallest(limits.MaxVolumeGiB, t.MaxGiB)
	capacity.Available = remaining(limits)
	return capacity, nil
}

// unlimited is the capacity of a project without a quota: the largest size that Cinder's 32-bit
// number of GiB expresses. CSI has no value for "unlimited", and zero would mean that nothing fits.
const unlimited = volume.Size(math.MaxInt32) * granularity

// hasZone reports whether the cloud has the zone of a label. If classZone, the zone of the
// StorageClass, is set, it must be that zone.
func (b *Backend) hasZone(ctx context.Context, c *cloud.Cloud, classZone, label string) (bool, error) {
	if label == "" || b.ignoresZones() {
		return true, nil
	}
	if classZone != "" && cindercsi.ZoneLabel(classZone) != label {
		return false, nil
	}
	zones, err := b.catalog.Zones(ctx, c)
	return slices.ContainsFunc(zones, func(zone string) bool { return cindercsi.ZoneLabel(zone) == label }), err
}

// isForSeveralNodes reports whether an access needs the volume on several nodes at once.
func isForSeveralNodes(accesses []volume.Access) bool {
	return slices.ContainsFunc(accesses, func(a volume.Access) bool { return a.Mode.IsMultiNode() })
}

// remaining returns the size that a quota leaves. Negative limits mean that there is no limit.
func remaining(l cloud.Limits) volume.Size {
	if l.MaxVolumes >= 0 && l.Volumes >= l.MaxVolumes {
		return 0
	}
	if l.MaxGiB < 0 {
		return unlimited
	}
	return volume.Size(max(0, l.MaxGiB-max(0, l.GiB))) * granularity
}

// smallest returns the smallest of the positive limits, which are in GiB; zero: no limit is
// positive.
func smallest(limits ...int) volume.Size {
	limits = slices.DeleteFunc(limits, func(l int) bool { return l <= 0 })
	if len(limits) == 0 {
		return 0
	}
	return volume.Size(slices.Min(limits)) * granularity
}

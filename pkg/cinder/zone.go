package cinder

import (
	"context"
	"slices"

	"github.com/growvol/growvol/pkg/cinder/internal/class"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// zoneChoice has the availability zones of a new volume.
type zoneChoice struct {
	order   []string // names of the zones to try, in order; an empty name lets Cinder choose
	allowed []string // labels of the zones that the request allows; nil: all
}

// allows reports whether the request allows a volume in the zone.
func (z zoneChoice) allows(zone string) bool {
	return z.allowed == nil || slices.Contains(z.allowed, cindercsi.ZoneLabel(zone))
}

// chooseZones chooses the zones for a new volume: the zone that the StorageClass sets, else those
// zones of the topology that Cinder has, the preferred ones first. Without either, and for a volume
// with a source, Cinder chooses: it creates a copy in the zone of its source and refuses most other
// zones. If zones are ignored, only the StorageClass counts. Kind Exhausted: the request does not
// allow the zone of the StorageClass, or Cinder has none of the allowed zones.
func (b *Backend) chooseZones(
	ctx context.Context, c *cloud.Cloud, want class.Storage, req volume.CreateRequest,
) (zoneChoice, error) {
	z := zoneChoice{order: []string{want.Zone}, allowed: b.allowedZones(req)}
	if want.Zone != "" && !z.allows(want.Zone) {
		return z, volume.Errorf(volume.KindExhausted,
			"the StorageClass sets the availability zone %s, but the request allows only %s",
			want.Zone, message.JoinAtMost(z.allowed)).
			WithRemedy("remove the parameter " + class.ParamZone +
				" from the StorageClass, or allow its zone in allowedTopologies")
	}
	labels := zoneLabels(slices.Concat(req.Preferred, req.Requisite))
	if b.ignoresZones() || want.Zone != "" || len(labels) == 0 || !req.Source.IsEmpty() {
		return z, nil
	}
	known, err := b.catalog.Zones(ctx, c)
	if err != nil {
		return z, err
	}
	z.order = nil
	for _, label := range labels {
		// In a label, some characters of the zone's name are replaced.
		i := slices.IndexFunc(known, func(zone string) bool { return zone == label || cindercsi.ZoneLabel(zone) == label })
		if i >= 0 && z.allows(known[i]) && !slices.Contains(z.order, known[i]) {
			z.order = append(z.order, known[i])
		}
	}
	if len(z.order) == 0 {
		return z, volume.Errorf(volume.KindExhausted, "the request allows only the zones %s, but Cinder has the zones %s",
			message.JoinAtMost(labels), message.JoinAtMost(known)).
			WithRemedy("if Cinder's zones and Nova's zones are independent, set ignore-volume-az in cloud.conf")
	}
	return z, nil
}

// allowedZones returns the labels of the zones that the request allows; nil: all.
func (b *Backend) allowedZones(req volume.CreateRequest) []string {
	if b.ignoresZones() {
		return nil
	}
	return zoneLabels(req.Requisite)
}

// ignoresZones reports whether the availability zone of a volume does not restrict which servers
// can reach it, by the options or by cloud.conf.
func (b *Backend) ignoresZones() bool {
	return b.opts.IgnoreVolumeAZ || b.clouds.Settings().IgnoreVolumeAZ
}

// zoneLabels returns the labels of the zones in topologies, without duplicates; nil: there are
// none.
func zoneLabels(topologies []volume.Topology) []string {
	var labels []string
	for _, t := range topologies {
		if label := t[cindercsi.TopologyKey]; label != "" && !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	return labels
}

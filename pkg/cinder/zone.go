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

// ignoresZones reports whether the availability zones of Cinder say nothing about which servers
// reach a volume.
func (b *Backend) ignoresZones() bool {
	return b.opts.IgnoreVolumeAZ || b.clouds.Settings().IgnoreVolumeAZ
}

// placement is where a new volume may be.
type placement struct {
	// zones to try, in order; one empty name leaves the choice to Cinder.
	zones []string
	// allowed are the zone labels that the request demands; nil: any zone is allowed.
	allowed []string
}

// allows reports whether a volume may be in the zone.
func (p placement) allows(zone string) bool {
	return p.allowed == nil || slices.Contains(p.allowed, cindercsi.ZoneLabel(zone))
}

// allowedZones returns the labels of the zones that the request demands; nil: any zone is allowed.
func (b *Backend) allowedZones(req volume.CreateRequest) []string {
	if b.ignoresZones() {
		return nil
	}
	return zoneLabels(req.Requisite)
}

// place chooses the zones for a new volume: the one that the class demands, else those of the
// topology that Cinder has, the preferred ones first. A volume with a source is created where the
// source is, unless the class demands a zone: Cinder refuses most other zones. If zones are
// ignored, only the class counts. Kind Exhausted: Cinder has none of the demanded zones.
func (b *Backend) place(
	ctx context.Context, c *cloud.Cloud, want class.Storage, req volume.CreateRequest,
) (placement, error) {
	if b.ignoresZones() {
		return placement{zones: []string{want.Zone}}, nil
	}
	p := placement{allowed: b.allowedZones(req)}
	if want.Zone != "" {
		if !p.allows(want.Zone) {
			return p, volume.Errorf(volume.KindExhausted,
				"the class demands the availability zone %s, but the volume must be reachable from %s",
				want.Zone, message.JoinAtMost(p.allowed)).
				WithRemedy("remove the parameter availability from the class, or allow its zone in allowedTopologies")
		}
		p.zones = []string{want.Zone}
		return p, nil
	}
	labels := zoneLabels(slices.Concat(req.Preferred, req.Requisite))
	if len(labels) == 0 || !req.Source.IsEmpty() {
		p.zones = []string{""}
		return p, nil
	}
	known, err := b.catalog.Zones(ctx, c)
	if err != nil {
		return p, err
	}
	for _, label := range labels {
		// The label may be a zone's name with characters replaced.
		i := slices.IndexFunc(known, func(zone string) bool { return zone == label || cindercsi.ZoneLabel(zone) == label })
		if i >= 0 && p.allows(known[i]) && !slices.Contains(p.zones, known[i]) {
			p.zones = append(p.zones, known[i])
		}
	}
	if len(p.zones) == 0 {
		return p, volume.Errorf(volume.KindExhausted,
			"the volume must be reachable from the zones %s, but Cinder has the zones %s",
			message.JoinAtMost(labels), message.JoinAtMost(known)).
			WithRemedy("if the zones of Cinder and Nova have nothing to do with each other, set ignore-volume-az in cloud.conf")
	}
	return p, nil
}

// zoneLabels returns the zones that topologies name; nil: they name none.
func zoneLabels(topologies []volume.Topology) []string {
	var labels []string
	for _, t := range topologies {
		if label := t[cindercsi.TopologyKey]; label != "" && !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	return labels
}

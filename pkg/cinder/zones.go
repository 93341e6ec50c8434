package cinder

import (
	"context"
	"slices"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cindercsi"
	"github.com/growvol/growvol/pkg/volume"
)

// ignoresZones tells whether availability zones of Cinder mean nothing here.
func (b *Backend) ignoresZones() bool {
	return b.opts.IgnoreVolumeAZ || b.clouds.Settings().IgnoreVolumeAZ
}

// placement is where a volume may be.
type placement struct {
	// zones to try, in order; one empty name leaves the choice to Cinder.
	zones []string
	// allowed are the zone labels that the request demands; nil: any.
	allowed []string
}

// fits tells whether a zone is one of those demanded.
func (p placement) fits(zone string) bool {
	return p.allowed == nil || slices.Contains(p.allowed, cindercsi.ZoneLabel(zone))
}

// allowedZones are the labels of the zones that the request demands; nil: any.
func (b *Backend) allowedZones(req volume.CreateRequest) []string {
	if b.ignoresZones() {
		return nil
	}
	return zoneLabels(req.Requisite)
}

// place chooses the zones for a new volume: the one that the class demands,
// else those of the topology, the preferred ones first, as far as Cinder has
// them. A volume with a source goes where the source is, unless the class
// demands a zone: Cinder refuses most others. Kind Exhausted: none of the
// demanded zones can be served.
func (b *Backend) place(ctx context.Context, c *cloud.Cloud, want wanted, req volume.CreateRequest) (placement, error) {
	if b.ignoresZones() {
		return placement{zones: []string{want.zone}}, nil
	}
	p := placement{allowed: b.allowedZones(req)}
	if want.zone != "" {
		if !p.fits(want.zone) {
			return p, volume.Errorf(volume.KindExhausted, "the class demands the availability zone %s, and the volume has to be reachable from %s", want.zone, few(p.allowed)).
				WithRemedy("remove the parameter availability from the class, or allow its zone in allowedTopologies")
		}
		p.zones = []string{want.zone}
		return p, nil
	}
	labels := append(zoneLabels(req.Preferred), p.allowed...)
	if len(labels) == 0 || !req.Source.IsEmpty() {
		p.zones = []string{""}
		return p, nil
	}
	have, err := b.zonesOf(ctx, c)
	if err != nil {
		return p, err
	}
	for _, label := range labels {
		// The label may be a zone's name with characters replaced.
		i := slices.IndexFunc(have, func(zone string) bool { return zone == label || cindercsi.ZoneLabel(zone) == label })
		if i >= 0 && p.fits(have[i]) && !slices.Contains(p.zones, have[i]) {
			p.zones = append(p.zones, have[i])
		}
	}
	if len(p.zones) == 0 {
		return p, volume.Errorf(volume.KindExhausted, "the volume has to be reachable from the zones %s, and Cinder has the zones %s", few(labels), few(have)).
			WithRemedy("if the zones of Cinder and Nova have nothing to do with each other, set ignore-volume-az in cloud.conf")
	}
	return p, nil
}

// zoneLabels are the zones that topologies name; nil: none does.
func zoneLabels(topologies []volume.Topology) []string {
	var labels []string
	for _, t := range topologies {
		if label := t[cindercsi.TopologyKey]; label != "" && !slices.Contains(labels, label) {
			labels = append(labels, label)
		}
	}
	return labels
}

package cinder

import (
	"context"
	"slices"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// catalogAge is for how long what a cloud offers is remembered. Administrators
// change it now and then, and a user who has just asked for a new type should
// not have to wait long.
const catalogAge = time.Minute

// catalog is what a cloud offers: its volume types and availability zones.
type catalog struct {
	turn     turn // guards the rest
	types    []cloud.VolumeType
	typesAt  time.Time
	zones    []string
	zonesAt  time.Time
	fallback cloud.VolumeType // the default type
}

func (b *Backend) catalogOf(c *cloud.Cloud) *catalog {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.catalog[c.Name()]
	if k == nil {
		k = &catalog{turn: newTurn()}
		b.catalog[c.Name()] = k
	}
	return k
}

func (k *catalog) enter(ctx context.Context) error {
	return k.turn.enter(ctx, "what the cloud offers")
}

// typeNamed returns the volume type of a name or id; an empty name means the
// cloud's default. Kind Invalid: there is none.
func (b *Backend) typeNamed(ctx context.Context, c *cloud.Cloud, name string) (cloud.VolumeType, error) {
	k := b.catalogOf(c)
	if err := k.enter(ctx); err != nil {
		return cloud.VolumeType{}, err
	}
	defer k.turn.leave()
	if time.Since(k.typesAt) > catalogAge {
		types, err := c.VolumeTypes(ctx)
		if err != nil {
			return cloud.VolumeType{}, err
		}
		fallback, err := c.DefaultVolumeType(ctx)
		if err != nil && !volume.IsKind(err, volume.KindNotFound) {
			return cloud.VolumeType{}, err
		}
		k.types, k.fallback, k.typesAt = types, fallback, time.Now()
	}
	if name == "" {
		return k.fallback, nil
	}
	for _, t := range k.types {
		if t.Name == name || t.ID == name {
			return t, nil
		}
	}
	k.typesAt = time.Time{} // it may be new: look again when it is asked for again
	names := make([]string, 0, len(k.types))
	for _, t := range k.types {
		names = append(names, t.Name)
	}
	return cloud.VolumeType{}, volume.Errorf(volume.KindInvalid, "the cloud %s has no volume type %q for this project; it has: %s", c.Name(), name, few(names)).
		WithRemedy("name one of the cloud's types in the class (openstack volume type list)")
}

// zonesOf returns the availability zones of Cinder that are in service.
func (b *Backend) zonesOf(ctx context.Context, c *cloud.Cloud) ([]string, error) {
	k := b.catalogOf(c)
	if err := k.enter(ctx); err != nil {
		return nil, err
	}
	defer k.turn.leave()
	if time.Since(k.zonesAt) > catalogAge {
		zones, err := c.Zones(ctx)
		if err != nil {
			return nil, err
		}
		k.zones, k.zonesAt = zones, time.Now()
	}
	return slices.Clone(k.zones), nil
}

// sameType reports whether a volume has the type of a name or id. Kind Invalid:
// the cloud does not have that type, or not for this project; it may have been
// renamed since the volume was made.
func (b *Backend) sameType(ctx context.Context, c *cloud.Cloud, v cloud.Volume, name string) (bool, error) {
	if v.VolumeType == name {
		return true, nil
	}
	t, err := b.typeNamed(ctx, c, name)
	return err == nil && t.Name == v.VolumeType, err
}

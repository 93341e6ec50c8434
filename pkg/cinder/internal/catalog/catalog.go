// Package catalog remembers what a cloud offers for a short time: its volume types, its
// availability zones and the limits of the project. Calls that need the same at the same
// time make one request. It reads only, through the interface API, and knows no volumes.
package catalog

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/volume"
)

// API is what a Catalog reads of a cloud.
type API interface {
	Name() string
	VolumeTypes(ctx context.Context) ([]cloud.VolumeType, error)
	DefaultVolumeType(ctx context.Context) (cloud.VolumeType, error)
	Zones(ctx context.Context) ([]string, error)
	Limits(ctx context.Context) (cloud.Limits, error)
}

// Catalog remembers the offers of all clouds. The zero value is ready to use.
type Catalog struct {
	mu     sync.Mutex
	clouds map[string]*offers // by name of the cloud
}

const (
	// maxOfferAge is how long types and zones are remembered: administrators change them
	// rarely, but a user who has just asked for a new type should not wait long.
	maxOfferAge = time.Minute
	// maxLimitsAge is how long limits are remembered: external-provisioner asks for the
	// capacity of all StorageClasses and zones at once, which have the same limits.
	maxLimitsAge = 10 * time.Second
)

// offers are those of one cloud.
type offers struct {
	types  *remembered[types]
	zones  *remembered[[]string]
	limits *remembered[cloud.Limits]
}

// types are the volume types of a cloud.
type types struct {
	all       []cloud.VolumeType
	byDefault cloud.VolumeType // zero: the cloud has no default type
}

func (k *Catalog) of(api API) *offers {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clouds == nil {
		k.clouds = make(map[string]*offers)
	}
	o := k.clouds[api.Name()]
	if o == nil {
		o = &offers{
			types: remember[types](maxOfferAge), zones: remember[[]string](maxOfferAge),
			limits: remember[cloud.Limits](maxLimitsAge),
		}
		k.clouds[api.Name()] = o
	}
	return o
}

// Type returns the volume type of a name or id, or the cloud's default type for an empty name.
// Kind Invalid: the cloud has no such type for this project.
func (k *Catalog) Type(ctx context.Context, api API, name string) (cloud.VolumeType, error) {
	remembered := k.of(api).types
	types, err := remembered.get(ctx, "volume types", func() (types, error) { return readTypes(ctx, api) })
	if err != nil || name == "" {
		return types.byDefault, err
	}
	names := make([]string, 0, len(types.all))
	for _, t := range types.all {
		if t.Name == name || t.ID == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	remembered.forget() // the type may be new: the next call reads the types again
	return cloud.VolumeType{}, volume.Errorf(volume.KindInvalid,
		"the cloud %s has no volume type %q for this project; it has: %s", api.Name(), name, message.JoinAtMost(names)).
		WithRemedy("name one of the cloud's types in the class (openstack volume type list)")
}

func readTypes(ctx context.Context, api API) (t types, err error) {
	if t.all, err = api.VolumeTypes(ctx); err != nil {
		return t, err
	}
	t.byDefault, err = api.DefaultVolumeType(ctx)
	if volume.IsKind(err, volume.KindNotFound) {
		err = nil
	}
	return t, err
}

// HasType reports whether a volume has the type of a name or id. Kind Invalid: the cloud has no
// such type for this project; it may have been renamed since the volume was created.
func (k *Catalog) HasType(ctx context.Context, api API, v cloud.Volume, name string) (bool, error) {
	if v.VolumeType == name {
		return true, nil
	}
	t, err := k.Type(ctx, api, name)
	return err == nil && t.Name == v.VolumeType, err
}

// Zones returns the availability zones of Cinder that are in service.
func (k *Catalog) Zones(ctx context.Context, api API) ([]string, error) {
	zones, err := k.of(api).zones.get(ctx, "availability zones", func() ([]string, error) { return api.Zones(ctx) })
	return slices.Clone(zones), err
}

// Limits returns the limits of the project and their use.
func (k *Catalog) Limits(ctx context.Context, api API) (cloud.Limits, error) {
	return k.of(api).limits.get(ctx, "limits of the project", func() (cloud.Limits, error) { return api.Limits(ctx) })
}

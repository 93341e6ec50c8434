// Package catalog caches what a cloud offers: its volume types, its availability zones and the
// limits of the project. Calls that need the same value at the same time make one request. The
// package only reads.
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

// API reads what one cloud offers. *cloud.Cloud implements it.
type API interface {
	Name() string
	VolumeTypes(ctx context.Context) ([]cloud.VolumeType, error)
	DefaultVolumeType(ctx context.Context) (cloud.VolumeType, error)
	Zones(ctx context.Context) ([]string, error)
	Limits(ctx context.Context) (cloud.Limits, error)
}

// Catalog caches the offers of all clouds. The zero value is ready to use.
type Catalog struct {
	mu     sync.Mutex
	clouds map[string]*offers // by name of the cloud
}

const (
	// maxOfferAge is how long types and zones are cached: administrators change them rarely, but a
	// user should not wait long for a change.
	maxOfferAge = time.Minute
	// maxLimitsAge is how long limits are cached: external-provisioner asks for the capacity of all
	// StorageClasses and zones at the same time, and the limits are the same for all.
	maxLimitsAge = 10 * time.Second
)

// offers has the cached values of one cloud.
type offers struct {
	types  *cached[types]
	zones  *cached[[]string]
	limits *cached[cloud.Limits]
}

// types has the volume types of a cloud.
type types struct {
	all       []cloud.VolumeType
	byDefault cloud.VolumeType // the default type; zero: the cloud has none
}

// of returns the cached values of a cloud.
func (k *Catalog) of(api API) *offers {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.clouds == nil {
		k.clouds = make(map[string]*offers)
	}
	o := k.clouds[api.Name()]
	if o == nil {
		o = &offers{
			types: newCached[types](maxOfferAge), zones: newCached[[]string](maxOfferAge),
			limits: newCached[cloud.Limits](maxLimitsAge),
		}
		k.clouds[api.Name()] = o
	}
	return o
}

// Type returns the volume type of a name or id. For an empty name it returns the cloud's default
// type, or the zero value if the cloud has none. Kind Invalid: this project has no such type.
func (k *Catalog) Type(ctx context.Context, api API, name string) (cloud.VolumeType, error) {
	cache := k.of(api).types
	types, err := cache.get(ctx, "volume types", func() (types, error) { return readTypes(ctx, api) })
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
	cache.forget() // the type may be new: the next call reads the types again
	return cloud.VolumeType{}, volume.Errorf(volume.KindInvalid,
		"cloud %s has no volume type %q for this project; it has: %s", api.Name(), name, message.JoinAtMost(names)).
		WithRemedy("set one of the cloud's volume types in the class: openstack volume type list")
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

// HasType reports whether a volume has the type of a name or id. Kind Invalid: this project has no
// such type, which may have been renamed since the volume was created.
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

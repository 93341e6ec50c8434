package cloud

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/availabilityzones"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/limits"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumetypes"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/growvol/growvol/pkg/volume"
)

// VolumeType is a kind of volume that the cloud offers to the project.
type VolumeType struct {
	ID, Name       string
	Multiattach    bool // its volumes can be attached to several servers
	MinGiB, MaxGiB int  // bounds of the volumes' size; 0 if there is none, or if only administrators see it
}

func volumeTypeOf(t volumetypes.VolumeType) VolumeType {
	bound := func(key string) int {
		n, err := strconv.Atoi(strings.TrimSpace(t.ExtraSpecs[key]))
		if err != nil || n < 0 {
			return 0
		}
		return n
	}
	multiattach := strings.TrimSpace(strings.TrimPrefix(t.ExtraSpecs["multiattach"], "<is>"))
	return VolumeType{
		ID: t.ID, Name: t.Name, Multiattach: strings.EqualFold(multiattach, "true"),
		MinGiB: bound("provisioning:min_vol_size"), MaxGiB: bound("provisioning:max_vol_size"),
	}
}

// VolumeTypes lists the types that the project is allowed to use.
func (c *Cloud) VolumeTypes(ctx context.Context) ([]VolumeType, error) {
	call := cinderCall("type_list", "listing the volume types")
	// This is the default of Cinder, which includes the project's private types. gophercloud's default
	// lists the private types of all projects if the user is an administrator.
	opts := volumetypes.ListOpts{IsPublic: volumetypes.VisibilityPublic}
	found, err := listAll(func(marker string) ([]volumetypes.VolumeType, string, error) {
		opts.Marker = marker
		return listPage[volumetypes.VolumeType](ctx, c, call, "volume_types", func(client *serviceClient) pagination.Pager {
			return volumetypes.List(client, opts)
		})
	})
	var types []VolumeType
	for _, t := range found {
		types = append(types, volumeTypeOf(t))
	}
	return types, err
}

// DefaultVolumeType returns the type of volumes that are created without naming a type. Kind
// NotFound: the cloud has no default type.
func (c *Cloud) DefaultVolumeType(ctx context.Context) (VolumeType, error) {
	// Without a default type Cinder answers 404 "Default volume type can not be found.", which the
	// object below makes kind NotFound.
	call := cinderCall("type_default", "reading the default volume type", object{"volume type", "default"})
	t, err := runForObject(ctx, c, call, "volume_type", func(client *serviceClient) (*volumetypes.VolumeType, error) {
		return volumetypes.Get(ctx, client, "default").Extract()
	})
	return volumeTypeOf(t), err
}

// Limits are the quota of the project and its use. -1 means that a limit is unlimited, or that a
// value is not known.
type Limits struct {
	MaxVolumes   int `json:"maxTotalVolumes"`
	Volumes      int `json:"totalVolumesUsed"`
	MaxGiB       int `json:"maxTotalVolumeGigabytes"`
	GiB          int `json:"totalGigabytesUsed"`
	MaxVolumeGiB int `json:"-"` // the largest size of one volume
}

// Limits reads the quota of the project and its use. MaxVolumeGiB comes from the quota set; it is
// -1 if the cloud's policy does not let the user read that.
func (c *Cloud) Limits(ctx context.Context) (Limits, error) {
	call := cinderCall("limits_get", "reading the limits of the project")
	l, err := runForObject(ctx, c, call, "limits", func(client *serviceClient) (*Limits, error) {
		l := Limits{MaxVolumes: -1, Volumes: -1, MaxGiB: -1, GiB: -1} // a field that the answer lacks stays -1
		return &l, limits.Get(ctx, client).ExtractIntoStructPtr(&struct {
			Absolute *Limits `json:"absolute"`
		}{&l}, "limits")
	})
	if err != nil {
		return Limits{}, err
	}
	l.MaxVolumeGiB, err = c.maxVolumeGiB(ctx)
	return l, err
}

func (c *Cloud) maxVolumeGiB(ctx context.Context) (int, error) {
	conn, err := c.connection(ctx)
	if err != nil {
		return -1, err
	}
	if !isID(conn.project) {
		return -1, nil
	}
	quota := struct {
		PerVolume int `json:"per_volume_gigabytes"` // quotasets.QuotaSet has 0 if the answer lacks it
	}{-1}
	call := cinderCall("quota_get", "reading the largest size of a volume")
	call.key = "quota_set"
	err = c.run(ctx, call, func(client *serviceClient) error {
		return quotasets.Get(ctx, client, conn.project).ExtractIntoStructPtr(&quota, call.key)
	})
	if volume.IsKind(err, volume.KindDenied) || isUnknownPath(err) {
		err = nil
	}
	return quota.PerVolume, err
}

// Zones lists the available zones of the block storage, sorted by name.
func (c *Cloud) Zones(ctx context.Context) ([]string, error) {
	call := cinderCall("zone_list", "listing the availability zones")
	const key = "availabilityZoneInfo"
	found, _, err := listPage[availabilityzones.AvailabilityZone](ctx, c, call, key, availabilityzones.List)
	var zones []string
	for _, z := range found {
		if z.ZoneState.Available {
			zones = append(zones, z.ZoneName)
		}
	}
	slices.Sort(zones)
	return zones, err
}

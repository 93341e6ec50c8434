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
	Multiattach    bool // its volumes may be attached to several servers
	MinGiB, MaxGiB int  // bounds of the volumes' size; 0: none, or hidden (only administrators see them)
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

// VolumeTypes lists the types that the project may use.
func (c *Cloud) VolumeTypes(ctx context.Context) ([]VolumeType, error) {
	k := cinderCall("type_list", "listing the volume types")
	// The default of Cinder, which includes the project's private types. That of gophercloud shows
	// administrators the private types of all projects.
	opts := volumetypes.ListOpts{IsPublic: volumetypes.VisibilityPublic}
	found, err := listAll(func(marker string) ([]volumetypes.VolumeType, string, error) {
		opts.Marker = marker
		return listPage[volumetypes.VolumeType](ctx, c, k, "volume_types", func(client *serviceClient) pagination.Pager {
			return volumetypes.List(client, opts)
		})
	})
	var types []VolumeType
	for _, t := range found {
		types = append(types, volumeTypeOf(t))
	}
	return types, err
}

// DefaultVolumeType returns the type of volumes that are asked for without one. Kind NotFound: the
// cloud has none.
func (c *Cloud) DefaultVolumeType(ctx context.Context) (VolumeType, error) {
	// "Default volume type can not be found."
	k := cinderCall("type_default", "reading the default volume type", object{"volume type", "default"})
	t, err := fetch(ctx, c, k, "volume_type", func(client *serviceClient) (*volumetypes.VolumeType, error) {
		return volumetypes.Get(ctx, client, "default").Extract()
	})
	return volumeTypeOf(t), err
}

// Limits are what the project may have and has. -1: without limit, or not known.
type Limits struct {
	MaxVolumes   int `json:"maxTotalVolumes"`
	Volumes      int `json:"totalVolumesUsed"`
	MaxGiB       int `json:"maxTotalVolumeGigabytes"`
	GiB          int `json:"totalGigabytesUsed"`
	MaxVolumeGiB int `json:"-"` // of one volume
}

// Limits reads the quota of the project and its use. The limit of one volume's size is in the
// quota set, which a policy may hide; it is -1 then.
func (c *Cloud) Limits(ctx context.Context) (Limits, error) {
	k := cinderCall("limits_get", "reading the limits of the project")
	l, err := fetch(ctx, c, k, "limits", func(client *serviceClient) (*Limits, error) {
		l := Limits{MaxVolumes: -1, Volumes: -1, MaxGiB: -1, GiB: -1} // what the answer leaves out stays
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
		PerVolume int `json:"per_volume_gigabytes"` // quotasets.QuotaSet says 0 if the answer leaves it out
	}{-1}
	k := cinderCall("quota_get", "reading the largest size of a volume")
	k.key = "quota_set"
	err = c.run(ctx, k, func(client *serviceClient) error {
		return quotasets.Get(ctx, client, conn.project).ExtractIntoStructPtr(&quota, k.key)
	})
	if volume.IsKind(err, volume.KindDenied) || isUnknownPath(err) {
		err = nil
	}
	return quota.PerVolume, err
}

// Zones lists the availability zones of the block storage that are in service.
func (c *Cloud) Zones(ctx context.Context) ([]string, error) {
	k := cinderCall("zone_list", "listing the availability zones")
	const key = "availabilityZoneInfo"
	found, _, err := listPage[availabilityzones.AvailabilityZone](ctx, c, k, key, availabilityzones.List)
	var zones []string
	for _, z := range found {
		if z.ZoneState.Available {
			zones = append(zones, z.ZoneName)
		}
	}
	slices.Sort(zones)
	return zones, err
}

package cloud

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/growvol/growvol/pkg/volume"
)

// errSeveralRegions is wrapped by the error for a cloud whose catalog has a service in
// several regions, while its configuration names none.
var errSeveralRegions = errors.New("none is configured")

// typesOf returns the names that a service has in catalogs, the usual one first.
func typesOf(s service) []string {
	if s == compute {
		return []string{"compute"}
	}
	return []string{"volumev3", "block-storage", "block-store", "volume"}
}

// checkRegions refuses a catalog that leaves open in which region a service is. Volumes
// of one region cannot be attached to servers of another, so the choice is not
// left to the order of the catalog. Services that are in one region each are
// used as they are. Kind Unavailable: the configuration may be corrected at any time.
func (c *connection) checkRegions(catalog *tokens.ServiceCatalog) error {
	if c.config.Region != "" {
		return nil
	}
	var several []string
	for _, s := range []struct {
		service        service
		name, override string
	}{{blockStorage, "block storage", c.config.BlockStorageURL}, {compute, "compute", c.config.ComputeURL}} {
		if s.override != "" {
			continue
		}
		regions := c.regionsOf(catalog, typesOf(s.service))
		if len(regions) > 1 {
			several = append(several, fmt.Sprintf("%s in the regions %s", s.name, list(regions)))
		}
	}
	if len(several) == 0 {
		return nil
	}
	return volume.Errorf(volume.KindUnavailable, "cloud %q cannot be used: its catalog has %s, and %w",
		c.config.Name, strings.Join(several, ", "), errSeveralRegions).
		WithRemedy("name the region of the nodes in " + c.config.Origin + ": region_name (clouds.yaml) or region (cloud.conf)")
}

// regionsOf returns the regions in which the catalog has a service of one of the types
// with an endpoint of the configured interface.
func (c *connection) regionsOf(catalog *tokens.ServiceCatalog, types []string) []string {
	var regions []string
	for _, entry := range catalog.Entries {
		if !slices.Contains(types, entry.Type) {
			continue
		}
		for _, e := range entry.Endpoints {
			if region := cmp.Or(e.Region, e.RegionID); e.Interface == c.config.Interface && region != "" {
				regions = append(regions, region)
			}
		}
	}
	slices.Sort(regions)
	return slices.Compact(regions)
}

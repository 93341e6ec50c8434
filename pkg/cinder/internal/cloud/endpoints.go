package cloud

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"github.com/growvol/growvol/pkg/cinder/internal/config"
	"github.com/growvol/growvol/pkg/volume"
)

// service names an API as the metrics and messages do.
type service string

const (
	blockStorage service = "cinder"
	compute      service = "nova"
	identity     service = "keystone"
)

// catalogTypes returns the types that a service has in catalogs, the usual one first.
func catalogTypes(s service) []string {
	if s == compute {
		return []string{"compute"}
	}
	return []string{"volumev3", "block-storage", "block-store", "volume"}
}

// endpoint is where a service is, or why that is not known.
type endpoint struct {
	url string // ends with a slash
	err error
}

// findEndpoint finds a service in the catalog under the first of its types, unless the
// configuration has an address to use instead.
func (c *connection) findEndpoint(catalog *tokens.ServiceCatalog, s service, override string) endpoint {
	if override != "" {
		project := strings.NewReplacer(
			"%(project_id)s", c.project, "$(project_id)s", c.project, "%(tenant_id)s", c.project, "$(tenant_id)s", c.project)
		return endpoint{url: gophercloud.NormalizeURL(project.Replace(override))}
	}
	var others []string
	for _, e := range endpointsOf(catalog, s) {
		isInRegion := c.config.Region == "" || e.Region == c.config.Region || e.RegionID == c.config.Region
		if e.Interface == c.config.Interface && isInRegion {
			return endpoint{url: gophercloud.NormalizeURL(e.URL)}
		}
		others = append(others, e.Interface+" in "+e.Region)
	}
	slices.Sort(others)
	found := cmp.Or(strings.Join(slices.Compact(others), ", "), "none at all")
	region := ""
	if c.config.Region != "" {
		region = " in region " + c.config.Region
	}
	return endpoint{err: volume.Errorf(volume.KindUnavailable,
		"the catalog of cloud %q has no %s endpoint of %s%s; it has %s",
		c.config.Name, c.config.Interface, catalogTypes(s)[0], region, found).
		WithRemedy("check region and endpoint type of " + c.config.Origin)}
}

// endpointsOf returns the endpoints that the catalog has of a service, in the order of its types.
func endpointsOf(catalog *tokens.ServiceCatalog, s service) []tokens.Endpoint {
	var found []tokens.Endpoint
	for _, name := range catalogTypes(s) {
		for _, entry := range catalog.Entries {
			if entry.Type == name {
				found = append(found, entry.Endpoints...)
			}
		}
	}
	return found
}

// errSeveralRegions is wrapped by the error for a cloud whose catalog has a service in several
// regions, while its configuration names none.
var errSeveralRegions = errors.New("none is configured")

// checkRegions refuses a catalog that leaves open in which region a service is. Volumes of one
// region cannot be attached to servers of another, so the choice is not left to the order of the
// catalog. Services that are in one region each are used as they are. Kind Unavailable: the
// configuration may be corrected at any time.
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
		if regions := c.regionsOf(catalog, s.service); len(regions) > 1 {
			several = append(several, fmt.Sprintf("%s in the regions %s", s.name, config.QuoteList(regions)))
		}
	}
	if len(several) == 0 {
		return nil
	}
	return volume.Errorf(volume.KindUnavailable, "cloud %q cannot be used: its catalog has %s, and %w",
		c.config.Name, strings.Join(several, ", "), errSeveralRegions).
		WithRemedy("name the region of the nodes in " + c.config.Origin +
			": region_name (clouds.yaml) or region (cloud.conf)")
}

// regionsOf returns the regions in which the catalog has a service with an endpoint of the
// configured interface.
func (c *connection) regionsOf(catalog *tokens.ServiceCatalog, s service) []string {
	var regions []string
	for _, e := range endpointsOf(catalog, s) {
		if region := cmp.Or(e.Region, e.RegionID); e.Interface == c.config.Interface && region != "" {
			regions = append(regions, region)
		}
	}
	slices.Sort(regions)
	return slices.Compact(regions)
}

package openstack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
)

// Cloud is a client of the rig's APIs in one project. It is independent of the driver, so the tests
// can trust what it reads.
type Cloud struct {
	Volumes, Compute, Images *gophercloud.ServiceClient
	Project                  string // ID
}

// openCloud signs in to a cloud of the rig's clouds.yaml.
func openCloud(ctx context.Context, dir, entry string) (*Cloud, error) {
	auth, endpoint, tls, err := clouds.Parse(clouds.WithLocations(filepath.Join(dir, "clouds.yaml")),
		clouds.WithCloudName(entry))
	if err != nil {
		return nil, fmt.Errorf("sign in to cloud %s: %w (next step: tests/openstack/up)", entry, err)
	}
	auth.AllowReauth = true
	provider, err := config.NewProviderClient(ctx, auth, config.WithTLSConfig(tls))
	if err != nil {
		return nil, fmt.Errorf("sign in to cloud %s: %w (next step: tests/openstack/up)", entry, err)
	}
	c := &Cloud{}
	var errs [3]error
	c.Volumes, errs[0] = openstack.NewBlockStorageV3(provider, endpoint)
	c.Compute, errs[1] = openstack.NewComputeV2(provider, endpoint)
	c.Images, errs[2] = openstack.NewImageV2(provider, endpoint)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	c.Volumes.Microversion = "3.59"
	c.Compute.Microversion = "2.79"
	// The endpoint ends with the ID of the project.
	c.Project = filepath.Base(c.Volumes.Endpoint)
	return c, nil
}

// Volume returns the present state of a volume.
func (c *Cloud) Volume(ctx context.Context, id string) (*volumes.Volume, error) {
	return volumes.Get(ctx, c.Volumes, id).Extract()
}

// SetQuota sets the maximum number and the maximum total size in GiB of a project's volumes. Only
// an administrator may set it.
func (c *Cloud) SetQuota(ctx context.Context, project string, count, gigabytes int) error {
	opts := quotasets.UpdateOpts{
		Volumes: &count, Gigabytes: &gigabytes, Snapshots: &count, Backups: &count, BackupGigabytes: &gigabytes,
	}
	return quotasets.Update(ctx, c.Volumes, project, opts).Err
}

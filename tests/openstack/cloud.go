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

// Cloud is a client of the rig's APIs in one project. It owes nothing to the
// driver: what it reads is what the tests believe.
type Cloud struct {
	Volumes, Compute, Images *gophercloud.ServiceClient
	Project                  string // id
}

// openCloud opens an entry of the rig's clouds.yaml.
func openCloud(ctx context.Context, dir, entry string) (*Cloud, error) {
	auth, endpoint, tls, err := clouds.Parse(clouds.WithLocations(filepath.Join(dir, "clouds.yaml")), clouds.WithCloudName(entry))
	if err != nil {
		return nil, fmt.Errorf("cloud %s: %w; is the rig up?", entry, err)
	}
	auth.AllowReauth = true
	provider, err := config.NewProviderClient(ctx, auth, config.WithTLSConfig(tls))
	if err != nil {
		return nil, fmt.Errorf("cloud %s: %w; is the rig up?", entry, err)
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
	// The block storage endpoint ends with the project's id.
	c.Project = filepath.Base(c.Volumes.Endpoint)
	return c, nil
}

// Volume reads a volume.
func (c *Cloud) Volume(ctx context.Context, id string) (*volumes.Volume, error) {
	return volumes.Get(ctx, c.Volumes, id).Extract()
}

// SetQuota sets how many volumes a project may have, and how many GiB they. Only
// an administrator may.
func (c *Cloud) SetQuota(ctx context.Context, project string, count, gigabytes int) error {
	opts := quotasets.UpdateOpts{Volumes: &count, Gigabytes: &gigabytes, Snapshots: &count, Backups: &count, BackupGigabytes: &gigabytes}
	return quotasets.Update(ctx, c.Volumes, project, opts).Err
}

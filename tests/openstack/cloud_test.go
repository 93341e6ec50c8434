package openstack_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/backups"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/quotasets"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
)

// cloud is a client of the rig's APIs that owes nothing to the driver: what
// it reads is what the tests believe.
type cloud struct {
	volumes, compute, images *gophercloud.ServiceClient
	project                  string // id
}

// openCloud opens an entry of the rig's clouds.yaml.
func openCloud(ctx context.Context, dir, entry string) (*cloud, error) {
	auth, endpoint, tls, err := clouds.Parse(clouds.WithLocations(filepath.Join(dir, "clouds.yaml")), clouds.WithCloudName(entry))
	if err != nil {
		return nil, err
	}
	auth.AllowReauth = true
	provider, err := config.NewProviderClient(ctx, auth, config.WithTLSConfig(tls))
	if err != nil {
		return nil, fmt.Errorf("cloud %s: %w; is the rig up?", entry, err)
	}
	c := &cloud{}
	var errs [3]error
	c.volumes, errs[0] = openstack.NewBlockStorageV3(provider, endpoint)
	c.compute, errs[1] = openstack.NewComputeV2(provider, endpoint)
	c.images, errs[2] = openstack.NewImageV2(provider, endpoint)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	c.volumes.Microversion = "3.59"
	c.compute.Microversion = "2.79"
	// The block storage endpoint ends with the project's id.
	c.project = filepath.Base(c.volumes.Endpoint)
	return c, nil
}

// volume reads a volume.
func (c *cloud) volume(ctx context.Context, id string) (*volumes.Volume, error) {
	return volumes.Get(ctx, c.volumes, id).Extract()
}

// setQuota sets how many volumes a project may have, and how many GiB they.
func (c *cloud) setQuota(ctx context.Context, project string, count, gigabytes int) error {
	opts := quotasets.UpdateOpts{Volumes: &count, Gigabytes: &gigabytes, Snapshots: &count, Backups: &count, BackupGigabytes: &gigabytes}
	return quotasets.Update(ctx, c.volumes, project, opts).Err
}

// image returns the id of the image of a name; empty if there is none.
func (c *cloud) image(ctx context.Context, name string) (string, error) {
	pages, err := images.List(c.images, images.ListOpts{Name: name, Status: images.ImageStatusActive}).AllPages(ctx)
	if err != nil {
		return "", err
	}
	found, err := images.ExtractImages(pages)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].ID, nil
}

// object is something that the tests make in the project.
type object struct {
	kind, id, name string
	remove         func(context.Context) error
}

// String names the object for messages.
func (o object) String() string { return fmt.Sprintf("%s %s (%s)", o.kind, o.id, o.name) }

func (c *cloud) servers(ctx context.Context) ([]object, error) {
	pages, err := servers.List(c.compute, nil).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := servers.ExtractServers(pages)
	return objects("server", list, func(s servers.Server) (string, string) { return s.ID, s.Name },
		func(ctx context.Context, id string) error { return servers.Delete(ctx, c.compute, id).Err }), err
}

func (c *cloud) backups(ctx context.Context) ([]object, error) {
	pages, err := backups.List(c.volumes, backups.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := backups.ExtractBackups(pages)
	return objects("backup", list, func(b backups.Backup) (string, string) { return b.ID, b.Name },
		func(ctx context.Context, id string) error { return backups.Delete(ctx, c.volumes, id).Err }), err
}

func (c *cloud) snapshots(ctx context.Context) ([]object, error) {
	pages, err := snapshots.List(c.volumes, snapshots.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := snapshots.ExtractSnapshots(pages)
	return objects("snapshot", list, func(s snapshots.Snapshot) (string, string) { return s.ID, s.Name },
		func(ctx context.Context, id string) error { return snapshots.Delete(ctx, c.volumes, id).Err }), err
}

func (c *cloud) allVolumes(ctx context.Context) ([]object, error) {
	pages, err := volumes.List(c.volumes, volumes.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := volumes.ExtractVolumes(pages)
	return objects("volume", list, func(v volumes.Volume) (string, string) { return v.ID, v.Name + ", " + v.Status },
		func(ctx context.Context, id string) error { return volumes.Delete(ctx, c.volumes, id, nil).Err }), err
}

func objects[T any](kind string, list []T, describe func(T) (id, name string), remove func(context.Context, string) error) []object {
	found := make([]object, 0, len(list))
	for _, item := range list {
		id, name := describe(item)
		found = append(found, object{kind: kind, id: id, name: name, remove: func(ctx context.Context) error { return remove(ctx, id) }})
	}
	return found
}

// leftovers lists what the project has besides servers.
func (c *cloud) leftovers(ctx context.Context) ([]object, error) {
	var all []object
	for _, list := range c.storage() {
		found, err := list(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

type lister func(context.Context) ([]object, error)

// storage lists in the order in which things can be deleted.
func (c *cloud) storage() []lister { return []lister{c.backups, c.snapshots, c.allVolumes} }

// purge deletes all that the project has.
func (c *cloud) purge(ctx context.Context) error {
	return errors.Join(purgeAll(ctx, c.servers), c.purgeStorage(ctx))
}

// purgeStorage deletes all that the project has besides servers.
func (c *cloud) purgeStorage(ctx context.Context) error {
	var errs []error
	for _, list := range c.storage() {
		errs = append(errs, purgeAll(ctx, list))
	}
	return errors.Join(errs...)
}

// purgeAll deletes what is listed until nothing is: some of it has to wait for
// something else to be gone.
func purgeAll(ctx context.Context, list lister) error {
	var last error
	err := eventually(ctx, "delete everything", func(ctx context.Context) (bool, error) {
		found, err := list(ctx)
		for _, o := range found {
			if err := o.remove(ctx); err != nil && !isStatus(err, http.StatusNotFound) {
				last = fmt.Errorf("%s: %w", o, err)
			}
		}
		return len(found) == 0, err
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

func isStatus(err error, code int) bool { return gophercloud.ResponseCodeIs(err, code) }

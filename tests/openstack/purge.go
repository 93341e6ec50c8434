package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/backups"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/snapshots"
	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
)

// Object is something that tests make in the project.
type Object struct {
	Kind, ID, Name string
	remove         func(context.Context) error
}

// String names the object for messages.
func (o Object) String() string { return fmt.Sprintf("%s %s (%s)", o.Kind, o.ID, o.Name) }

func (c *Cloud) servers(ctx context.Context) ([]Object, error) {
	pages, err := servers.List(c.Compute, nil).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := servers.ExtractServers(pages)
	return objects("server", list, func(s servers.Server) (string, string) { return s.ID, s.Name },
		func(ctx context.Context, id string) error { return servers.Delete(ctx, c.Compute, id).Err }), err
}

func (c *Cloud) backups(ctx context.Context) ([]Object, error) {
	pages, err := backups.List(c.Volumes, backups.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := backups.ExtractBackups(pages)
	return objects("backup", list, func(b backups.Backup) (string, string) { return b.ID, b.Name },
		func(ctx context.Context, id string) error { return backups.Delete(ctx, c.Volumes, id).Err }), err
}

func (c *Cloud) snapshots(ctx context.Context) ([]Object, error) {
	pages, err := snapshots.List(c.Volumes, snapshots.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := snapshots.ExtractSnapshots(pages)
	return objects("snapshot", list, func(s snapshots.Snapshot) (string, string) { return s.ID, s.Name },
		func(ctx context.Context, id string) error { return snapshots.Delete(ctx, c.Volumes, id).Err }), err
}

func (c *Cloud) allVolumes(ctx context.Context) ([]Object, error) {
	pages, err := volumes.List(c.Volumes, volumes.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := volumes.ExtractVolumes(pages)
	return objects("volume", list, func(v volumes.Volume) (string, string) { return v.ID, v.Name + ", " + v.Status },
		func(ctx context.Context, id string) error { return volumes.Delete(ctx, c.Volumes, id, nil).Err }), err
}

func objects[T any](kind string, list []T, describe func(T) (id, name string), remove func(context.Context, string) error) []Object {
	found := make([]Object, 0, len(list))
	for _, item := range list {
		id, name := describe(item)
		found = append(found, Object{Kind: kind, ID: id, Name: name, remove: func(ctx context.Context) error { return remove(ctx, id) }})
	}
	return found
}

// Leftovers lists what the project has besides servers.
func (c *Cloud) Leftovers(ctx context.Context) ([]Object, error) {
	var all []Object
	for _, list := range []lister{c.backups, c.snapshots, c.allVolumes} {
		found, err := list(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

type lister func(context.Context) ([]Object, error)

// Purge deletes all that the project has.
func (c *Cloud) Purge(ctx context.Context) error {
	return errors.Join(purgeAll(ctx, c.servers), purgeAll(ctx, c.Leftovers))
}

// purgeAll deletes what is listed until nothing is. In no order: a volume waits
// for its snapshots, and on Ceph a snapshot for the volumes restored from it.
func purgeAll(ctx context.Context, list lister) error {
	var last error
	err := Eventually(ctx, "delete everything", func(ctx context.Context) (bool, error) {
		found, err := list(ctx)
		for _, o := range found {
			if err := o.remove(ctx); err != nil && !gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
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

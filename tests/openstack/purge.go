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

// Object is a server, volume, snapshot or backup of the project.
type Object struct {
	Kind, ID, Name string
	remove         func(context.Context) error
}

// String returns the kind, ID and name of the object for messages.
func (o Object) String() string { return fmt.Sprintf("%s %s (%s)", o.Kind, o.ID, o.Name) }

func (c *Cloud) listServers(ctx context.Context) ([]Object, error) {
	pages, err := servers.List(c.Compute, nil).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := servers.ExtractServers(pages)
	return newObjects("server", list, func(s servers.Server) (string, string) { return s.ID, s.Name },
		func(ctx context.Context, id string) error { return servers.Delete(ctx, c.Compute, id).Err }), err
}

func (c *Cloud) listBackups(ctx context.Context) ([]Object, error) {
	pages, err := backups.List(c.Volumes, backups.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := backups.ExtractBackups(pages)
	return newObjects("backup", list, func(b backups.Backup) (string, string) { return b.ID, b.Name },
		func(ctx context.Context, id string) error { return backups.Delete(ctx, c.Volumes, id).Err }), err
}

func (c *Cloud) listSnapshots(ctx context.Context) ([]Object, error) {
	pages, err := snapshots.List(c.Volumes, snapshots.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := snapshots.ExtractSnapshots(pages)
	return newObjects("snapshot", list, func(s snapshots.Snapshot) (string, string) { return s.ID, s.Name },
		func(ctx context.Context, id string) error { return snapshots.Delete(ctx, c.Volumes, id).Err }), err
}

func (c *Cloud) listVolumes(ctx context.Context) ([]Object, error) {
	pages, err := volumes.List(c.Volumes, volumes.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, err
	}
	list, err := volumes.ExtractVolumes(pages)
	return newObjects("volume", list, func(v volumes.Volume) (string, string) { return v.ID, v.Name + ", " + v.Status },
		func(ctx context.Context, id string) error { return volumes.Delete(ctx, c.Volumes, id, nil).Err }), err
}

// newObjects returns the objects of a list. describe returns the ID and the name of an item; remove
// deletes the object with an ID.
func newObjects[T any](
	kind string, list []T, describe func(T) (id, name string), remove func(context.Context, string) error,
) []Object {
	found := make([]Object, 0, len(list))
	for _, item := range list {
		id, name := describe(item)
		found = append(found, Object{
			Kind: kind, ID: id, Name: name, remove: func(ctx context.Context) error { return remove(ctx, id) },
		})
	}
	return found
}

// ListStorage returns the volumes, snapshots and backups of the project.
func (c *Cloud) ListStorage(ctx context.Context) ([]Object, error) {
	var all []Object
	for _, list := range []listFunc{c.listBackups, c.listSnapshots, c.listVolumes} {
		found, err := list(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// listFunc returns the objects of some kinds.
type listFunc func(context.Context) ([]Object, error)

// Purge deletes all objects of the project.
func (c *Cloud) Purge(ctx context.Context) error {
	return errors.Join(purgeAll(ctx, c.listServers), purgeAll(ctx, c.ListStorage))
}

// purgeAll deletes the listed objects until none is left. It cannot keep an order: a volume cannot
// be deleted before its snapshots, but on Ceph a snapshot not before the volumes restored from it.
func purgeAll(ctx context.Context, list listFunc) error {
	var last error
	err := WaitUntil(ctx, "the project is empty", func(ctx context.Context) (bool, error) {
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

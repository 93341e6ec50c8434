package cloud

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/blockstorage/v3/volumes"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"github.com/growvol/growvol/pkg/volume"
)

// Volume is a volume as Cinder shows it. Its Attachments are only the completed ones: a volume that
// is just being attached has none (ServerAttachment asks Nova). If it is Encrypted, the hypervisor
// encrypts it, and a guest sees less than Size.
type Volume = volumes.Volume

// Attachment is the attachment of a volume to a server. Its Device is a guess of Cinder or Nova:
// the device can have another name in the guest.
type Attachment = volumes.Attachment

// SizeOf returns the size of v in bytes; Cinder counts in GiB.
func SizeOf(v Volume) volume.Size { return volume.Size(v.Size) * volume.GiB }

// BackupIDOf returns the id of the backup that v was restored from, or "".
func BackupIDOf(v Volume) string {
	if v.BackupID != nil && *v.BackupID != "" {
		return *v.BackupID
	}
	return v.Metadata["src_backup_id"] // clouds without microversion 3.47 have it there
}

// Volume reads a volume. Kinds: NotFound (the volume does not exist), Denied (the user is not
// allowed to read it, also if Cinder then answers that it does not exist).
func (c *Cloud) Volume(ctx context.Context, id string) (Volume, error) {
	call := cinderCall("volume_get", "reading volume "+id, object{"volume", id})
	v, err := readByID(ctx, c, call, func(client *serviceClient) (*Volume, error) {
		return volumes.Get(ctx, client, id).Extract()
	})
	if volume.IsKind(err, volume.KindNotFound) && StatusCode(err) != 0 {
		err = c.checkNotHidden(ctx, call, err)
	}
	return v, err
}

// listingValidity is how long a listing of volumes proves that the user is allowed to read volumes.
const listingValidity = 5 * time.Second

// checkNotHidden returns missing, the error that a volume does not exist, if the user is allowed to
// list volumes; else it returns another error. Cinder answers 404 also for a volume that its policy
// does not let the user read (cinder/volume/api.py, get). A policy that forbids to read volumes
// also forbids to list them, which Cinder answers with 403.
func (c *Cloud) checkNotHidden(ctx context.Context, call call, missing error) error {
	if at := c.listedAt.Load(); at != nil && time.Since(*at) < listingValidity {
		return missing
	}
	_, _, err := c.Volumes(ctx, VolumePage{Limit: 1})
	switch {
	case err == nil:
		return missing
	case volume.IsKind(err, volume.KindDenied):
		return volume.Errorf(volume.KindDenied, "%s: the cloud's policy may hide the volume: "+
			"the user is not allowed to list volumes, and Cinder answers 404 "+
			"also for volumes that the user is not allowed to read: %w", call.what, err).
			WithRemedy("give the user of the cloud's credentials a role that is allowed to read volumes")
	}
	return withContext(call.what+": it is not known whether the volume is gone or hidden by the cloud's policy", err)
}

// VolumesNamed returns the volumes of exactly this name; Cinder allows several.
func (c *Cloud) VolumesNamed(ctx context.Context, name string) ([]Volume, error) {
	found, err := listAll(func(marker string) ([]Volume, string, error) {
		return c.listVolumes(ctx, "volumes named "+name, volumes.ListOpts{Name: name, Marker: marker})
	})
	// A filter that a cloud ignores must not make other volumes match.
	return slices.DeleteFunc(found, func(v Volume) bool { return v.Name != name }), err
}

// VolumePage selects a part of the project's volumes.
type VolumePage struct {
	Marker            string            // id of the last volume of the previous page; empty: the first page
	Limit             int               // the largest number of volumes; 0: the limit of Cinder (1000 by default)
	Metadata          map[string]string // only volumes that have all of these
	NewestChangeFirst bool              // else oldest first, an order that does not change between pages
}

// Volumes reads one page of the project's volumes and the marker of the next ("" after the last).
// Kind Stale: the volume of the marker no longer exists.
func (c *Cloud) Volumes(ctx context.Context, page VolumePage) (vs []Volume, next string, err error) {
	opts := volumes.ListOpts{
		Marker: page.Marker, Limit: page.Limit, Metadata: escapePython(page.Metadata), Sort: oldestFirst,
	}
	if page.NewestChangeFirst {
		opts.Sort = "updated_at:desc,id:asc"
	}
	return c.listVolumes(ctx, "volumes", opts)
}

// oldestFirst is an order that stays the same when objects are created or deleted between two
// pages.
const oldestFirst = "created_at:asc,id:asc"

func (c *Cloud) listVolumes(ctx context.Context, what string, opts volumes.ListOpts) ([]Volume, string, error) {
	call := cinderCall("volume_list", "listing "+what, withID(object{"volume", opts.Marker})...)
	vs, next, err := listPage[Volume](ctx, c, call, "volumes", func(client *serviceClient) pagination.Pager {
		return volumes.List(client, opts)
	})
	if err == nil {
		now := time.Now()
		c.listedAt.Store(&now)
	}
	return vs, next, markerError(err, opts.Marker)
}

// escapePython prepares metadata for a filter. Cinder reads the filter as a Python literal
// (ast.literal_eval), but gophercloud puts keys and values into single quotes without escaping
// them. gophercloud also sends a filter for a map that is empty but not nil.
func escapePython(metadata map[string]string) map[string]string {
	if len(metadata) == 0 {
		return nil
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`)
	escaped := map[string]string{}
	for k, v := range metadata {
		escaped[quote.Replace(k)] = quote.Replace(v)
	}
	return escaped
}

// NewVolume describes the volume that CreateVolume creates. At most one of the sources is set.
type NewVolume struct {
	Name, Description            string
	Size                         int    // GiB
	VolumeType, AvailabilityZone string // empty: the cloud chooses
	SnapshotID                   string
	SourceVolID                  string
	BackupID                     string
	Metadata                     map[string]string
	SameHost                     []string // on the backend of all these volumes
	DifferentHost                []string // on the backend of none of these
}

// CreateVolume asks Cinder to create a volume, which it does asynchronously: the returned volume is
// not usable yet. CreateVolume never repeats the request when the answer is lost (kind
// Unavailable): the caller must look for the name before another attempt.
func (c *Cloud) CreateVolume(ctx context.Context, v NewVolume) (Volume, error) {
	sources := withID(object{"snapshot", v.SnapshotID}, object{"volume", v.SourceVolID}, object{"backup", v.BackupID})
	call := cinderCall("volume_create", fmt.Sprintf("creating volume %s of %d GiB", v.Name, v.Size), sources...)
	call.volumeType = v.VolumeType
	if v.BackupID != "" {
		call.needs = FeatureBackupSource.need()
	}
	opts := volumes.CreateOpts{
		Name: v.Name, Description: v.Description, Size: v.Size, Metadata: v.Metadata,
		VolumeType: v.VolumeType, AvailabilityZone: v.AvailabilityZone,
		SnapshotID: v.SnapshotID, SourceVolID: v.SourceVolID, BackupID: v.BackupID,
	}
	// gophercloud's own fields for the hints accept only ids that are UUIDs of version 1 to 5.
	hints := volumes.SchedulerHintOpts{AdditionalProperties: map[string]any{}}
	for name, ids := range map[string][]string{"same_host": v.SameHost, "different_host": v.DifferentHost} {
		if len(ids) > 0 {
			hints.AdditionalProperties[name] = ids
		}
	}
	return runForObject(ctx, c, call, "volume", func(client *serviceClient) (*Volume, error) {
		return volumes.Create(ctx, client, opts, hints).Extract()
	})
}

// DeleteVolume asks Cinder to delete a volume, which it does asynchronously. Kinds:
// NotFound, Precondition (in use, or snapshots depend on it).
func (c *Cloud) DeleteVolume(ctx context.Context, id string) error {
	call := cinderCall("volume_delete", "deleting volume "+id, object{"volume", id})
	return c.run(ctx, call, func(client *serviceClient) error { return volumes.Delete(ctx, client, id, nil).ExtractErr() })
}

// ExtendVolume asks Cinder to extend a volume, which it does asynchronously and can still refuse
// later. online means that the volume is in use, which needs FeatureOnlineExtend. Kinds: OutOfRange
// (quota, limits of the type), InProgress (the present state of the volume forbids it), NotFound,
// Unsupported (online only).
func (c *Cloud) ExtendVolume(ctx context.Context, id string, sizeGiB int, online bool) error {
	call := cinderCall("volume_extend", fmt.Sprintf("extending volume %s to %d GiB", id, sizeGiB), object{"volume", id})
	if online {
		call.needs = FeatureOnlineExtend.need()
	}
	return c.run(ctx, call, func(client *serviceClient) error {
		return volumes.ExtendSize(ctx, client, id, volumes.ExtendSizeOpts{NewSize: sizeGiB}).ExtractErr()
	})
}

// Retype asks Cinder to change the type of a volume, which it does asynchronously. policy is
// "never", or "on-demand", which allows Cinder to move the volume to another backend.
func (c *Cloud) Retype(ctx context.Context, id, newType, policy string) error {
	what := fmt.Sprintf("changing the type of volume %s to %s", id, newType)
	call := cinderCall("volume_retype", what, object{"volume", id})
	call.volumeType = newType
	opts := volumes.ChangeTypeOpts{NewType: newType, MigrationPolicy: volumes.MigrationPolicy(policy)}
	return c.run(ctx, call, func(client *serviceClient) error {
		return volumes.ChangeType(ctx, client, id, opts).ExtractErr()
	})
}

// SetVolumeMetadata sets the given keys and leaves the others as they are.
func (c *Cloud) SetVolumeMetadata(ctx context.Context, id string, metadata map[string]string) error {
	call := cinderCall("volume_metadata", "setting metadata of volume "+id, object{"volume", id})
	call.isRepeatable = true
	body := map[string]any{"metadata": metadata}
	// gophercloud has only volumes.Update, which replaces all keys.
	return c.run(ctx, call, func(client *serviceClient) error {
		address := client.ServiceURL("volumes", id, "metadata")
		return request(ctx, client, http.MethodPost, address, body, nil, http.StatusOK)
	})
}

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

// Volume is a volume as Cinder shows it. Its Attachments are the completed ones only: a volume
// that is just being attached has none (see ServerAttachment for Nova's). A volume that is
// Encrypted is so by the hypervisor: a guest sees less than Size.
type Volume = volumes.Volume

// Attachment is the use of a volume by a server. Its Device is a guess of Cinder or Nova: the
// guest may name the disk otherwise.
type Attachment = volumes.Attachment

// SizeOf returns the size of v in bytes; Cinder counts in GiB.
func SizeOf(v Volume) volume.Size { return volume.Size(v.Size) * volume.GiB }

// BackupIDOf returns the backup that v was restored from; empty: none.
func BackupIDOf(v Volume) string {
	if v.BackupID != nil && *v.BackupID != "" {
		return *v.BackupID
	}
	return v.Metadata["src_backup_id"] // where Cinder keeps it before 3.47
}

// Volume reads a volume. Kinds: NotFound (Cinder does not know it), Denied (it may not be read,
// also where Cinder says that it does not exist).
func (c *Cloud) Volume(ctx context.Context, id string) (Volume, error) {
	k := cinderCall("volume_get", "reading volume "+id, object{"volume", id})
	v, err := get(ctx, c, k, func(client *serviceClient) (*Volume, error) {
		return volumes.Get(ctx, client, id).Extract()
	})
	if volume.IsKind(err, volume.KindNotFound) && StatusCode(err) != 0 {
		err = c.checkNotHidden(ctx, k, err)
	}
	return v, err
}

// listingValidity is how long a listing of volumes proves that the user may read volumes.
const listingValidity = 5 * time.Second

// checkNotHidden returns missing, the answer that a volume does not exist, or another error if
// that is not proved. Cinder says of a volume that its policy does not let the user read that it
// could not be found (cinder/volume/api.py, get). Where the policy forbids that, it forbids the
// listing of volumes as well, with 403.
func (c *Cloud) checkNotHidden(ctx context.Context, k call, missing error) error {
	if at := c.listedAt.Load(); at != nil && time.Since(*at) < listingValidity {
		return missing
	}
	_, _, err := c.Volumes(ctx, VolumePage{Limit: 1})
	switch {
	case err == nil:
		return missing
	case volume.IsKind(err, volume.KindDenied):
		return volume.Errorf(volume.KindDenied, "%s: the cloud's policy may hide the volume: "+
			"the user may not list volumes either, and Cinder says of volumes that may not be read "+
			"that they could not be found: %w", k.what, err).
			WithRemedy("give the user of the cloud's credentials a role that may read volumes")
	}
	return withContext(k.what+": it is not known whether the volume is gone or hidden by the cloud's policy", err)
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
	Marker            string            // id of the last volume of the page before; empty: from the start
	Limit             int               // at most so many; 0: as many as Cinder gives (1000 by default)
	Metadata          map[string]string // only volumes that have all of these
	NewestChangeFirst bool              // else in a stable order: by age and id
}

// Volumes reads one page of the project's volumes and the marker of the next ("" after the last).
// Kind Stale: the marker's volume is gone.
func (c *Cloud) Volumes(ctx context.Context, page VolumePage) (vs []Volume, next string, err error) {
	opts := volumes.ListOpts{
		Marker: page.Marker, Limit: page.Limit, Metadata: escapePython(page.Metadata), Sort: oldestFirst,
	}
	if page.NewestChangeFirst {
		opts.Sort = "updated_at:desc,id:asc"
	}
	return c.listVolumes(ctx, "volumes", opts)
}

// oldestFirst is the order of listings that go on page by page while objects come and go.
const oldestFirst = "created_at:asc,id:asc"

func (c *Cloud) listVolumes(ctx context.Context, what string, opts volumes.ListOpts) ([]Volume, string, error) {
	k := cinderCall("volume_list", "listing "+what, withID(object{"volume", opts.Marker})...)
	vs, next, err := listPage[Volume](ctx, c, k, "volumes", func(client *serviceClient) pagination.Pager {
		return volumes.List(client, opts)
	})
	if err == nil {
		now := time.Now()
		c.listedAt.Store(&now)
	}
	return vs, next, markerError(err, opts.Marker)
}

// escapePython prepares metadata to filter by: Cinder reads a Python literal (ast.literal_eval),
// and gophercloud writes keys and values in single quotes as they are, and a map that is empty but
// not nil as a filter.
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

// NewVolume is what CreateVolume makes. At most one source is set.
type NewVolume struct {
	Name, Description            string
	Size                         int    // GiB
	VolumeType, AvailabilityZone string // empty: the cloud's choice
	SnapshotID                   string
	SourceVolID                  string
	BackupID                     string
	Metadata                     map[string]string
	SameHost                     []string // on the backend of all these volumes
	DifferentHost                []string // on the backend of none of these
}

// CreateVolume asks for a volume, which Cinder then makes on its own: the answer is not a usable
// volume yet. The request is never repeated when the answer got lost (kind Unavailable): the
// caller looks for the name before another attempt.
func (c *Cloud) CreateVolume(ctx context.Context, v NewVolume) (Volume, error) {
	sources := withID(object{"snapshot", v.SnapshotID}, object{"volume", v.SourceVolID}, object{"backup", v.BackupID})
	k := cinderCall("volume_create", fmt.Sprintf("creating volume %s of %d GiB", v.Name, v.Size), sources...)
	k.volumeType = v.VolumeType
	if v.BackupID != "" {
		k.needs = FeatureBackupSource.need()
	}
	opts := volumes.CreateOpts{
		Name: v.Name, Description: v.Description, Size: v.Size, Metadata: v.Metadata,
		VolumeType: v.VolumeType, AvailabilityZone: v.AvailabilityZone,
		SnapshotID: v.SnapshotID, SourceVolID: v.SourceVolID, BackupID: v.BackupID,
	}
	// gophercloud's own fields for the hints take only ids that are UUIDs of version 1 to 5.
	hints := volumes.SchedulerHintOpts{AdditionalProperties: map[string]any{}}
	for name, ids := range map[string][]string{"same_host": v.SameHost, "different_host": v.DifferentHost} {
		if len(ids) > 0 {
			hints.AdditionalProperties[name] = ids
		}
	}
	return fetch(ctx, c, k, "volume", func(client *serviceClient) (*Volume, error) {
		return volumes.Create(ctx, client, opts, hints).Extract()
	})
}

// DeleteVolume asks for the deletion of a volume, which Cinder then does on its own. Kinds:
// NotFound, Precondition (in use, or snapshots depend on it).
func (c *Cloud) DeleteVolume(ctx context.Context, id string) error {
	k := cinderCall("volume_delete", "deleting volume "+id, object{"volume", id})
	return c.run(ctx, k, func(client *serviceClient) error { return volumes.Delete(ctx, client, id, nil).ExtractErr() })
}

// ExtendVolume asks Cinder to grow a volume; it says nothing about whether that will work, let
// alone when. online: the volume is in use, which takes FeatureOnlineExtend. Kinds: OutOfRange
// (quota, limits of the type), InProgress (the volume is in a state that forbids it now),
// NotFound.
func (c *Cloud) ExtendVolume(ctx context.Context, id string, sizeGiB int, online bool) error {
	k := cinderCall("volume_extend", fmt.Sprintf("extending volume %s to %d GiB", id, sizeGiB), object{"volume", id})
	if online {
		k.needs = FeatureOnlineExtend.need()
	}
	return c.run(ctx, k, func(client *serviceClient) error {
		return volumes.ExtendSize(ctx, client, id, volumes.ExtendSizeOpts{NewSize: sizeGiB}).ExtractErr()
	})
}

// Retype asks for another volume type. policy is "never" or "on-demand", which lets Cinder move
// the volume to another backend.
func (c *Cloud) Retype(ctx context.Context, id, newType, policy string) error {
	what := fmt.Sprintf("changing the type of volume %s to %s", id, newType)
	k := cinderCall("volume_retype", what, object{"volume", id})
	k.volumeType = newType
	opts := volumes.ChangeTypeOpts{NewType: newType, MigrationPolicy: volumes.MigrationPolicy(policy)}
	return c.run(ctx, k, func(client *serviceClient) error {
		return volumes.ChangeType(ctx, client, id, opts).ExtractErr()
	})
}

// SetVolumeMetadata sets the given keys and leaves the others as they are.
func (c *Cloud) SetVolumeMetadata(ctx context.Context, id string, metadata map[string]string) error {
	k := cinderCall("volume_metadata", "setting metadata of volume "+id, object{"volume", id})
	k.isRepeatable = true
	body := map[string]any{"metadata": metadata}
	// gophercloud has only volumes.Update, which replaces all keys.
	return c.run(ctx, k, func(client *serviceClient) error {
		address := client.ServiceURL("volumes", id, "metadata")
		return request(ctx, client, http.MethodPost, address, body, nil, http.StatusOK)
	})
}

package cloud

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/volume"
)

// Volume is a volume as Cinder shows it.
type Volume struct {
	ID, Name, Status             string
	Size                         int
	VolumeType, AvailabilityZone string
	Metadata                     map[string]string
	Multiattach                  bool
	Encrypted                    bool // by the hypervisor, so that a guest sees less than SizeGiB
	SnapshotID                   string
	SourceVolID                  string
	BackupID                     string // the backup it was restored from
	// Attachments are the completed ones only: a volume that is just being
	// attached has none. Nova's are in ServerAttachment.
	Attachments          []Attachment
	CreatedAt, UpdatedAt time.Time
}

// SizeOf returns the size of v in bytes; Cinder counts in GiB.
func SizeOf(v Volume) volume.Size { return volume.Size(v.Size) * volume.GiB }

// BackupIDOf returns the backup that v was restored from; empty: none.
func BackupIDOf(v Volume) string { return v.BackupID }

// Attachment is the use of a volume by a server.
type Attachment struct {
	ServerID, AttachmentID string
	Device                 string // a guess of Cinder or Nova; a guest may name its disk otherwise
}

// backupKey is the metadata key in which Cinder keeps the backup that a volume
// was restored from.
const backupKey = "src_backup_id"

type wireVolume struct {
	ID             string            `json:"id"`
	Name           string            `json:"name"`
	Status         string            `json:"status"`
	Size           int               `json:"size"`
	Type           string            `json:"volume_type"`
	Zone           string            `json:"availability_zone"`
	Metadata       map[string]string `json:"metadata"`
	Multiattach    bool              `json:"multiattach"`
	Encrypted      bool              `json:"encrypted"`
	SnapshotID     string            `json:"snapshot_id"`
	SourceVolumeID string            `json:"source_volid"`
	BackupID       string            `json:"backup_id"`
	Created        stamp             `json:"created_at"`
	Updated        stamp             `json:"updated_at"`
	Attachments    []struct {
		ServerID     string `json:"server_id"`
		AttachmentID string `json:"attachment_id"`
		Device       string `json:"device"`
	} `json:"attachments"`
}

func (w *wireVolume) volume() Volume {
	v := Volume{
		ID: w.ID, Name: w.Name, Status: w.Status, Size: w.Size, VolumeType: w.Type, AvailabilityZone: w.Zone, Metadata: w.Metadata,
		Multiattach: w.Multiattach, Encrypted: w.Encrypted,
		SnapshotID: w.SnapshotID, SourceVolID: w.SourceVolumeID, BackupID: w.BackupID,
		CreatedAt: time.Time(w.Created), UpdatedAt: time.Time(w.Updated),
	}
	if v.BackupID == "" {
		v.BackupID = w.Metadata[backupKey]
	}
	for _, a := range w.Attachments {
		v.Attachments = append(v.Attachments, Attachment{
			ServerID: a.ServerID, AttachmentID: a.AttachmentID, Device: a.Device,
		})
	}
	return v
}

// Volume reads a volume. Kinds: NotFound (Cinder does not know it), Denied (it may not
// be read, also where Cinder says that it does not exist).
func (c *Cloud) Volume(ctx context.Context, id string) (Volume, error) {
	if !known(id) {
		return Volume{}, unknown("volume", id)
	}
	var answer struct {
		Volume wireVolume `json:"volume"`
	}
	k := call{
		service: blockStorage, name: "volume_get", what: "reading volume " + id, objects: []string{id},
		method: "GET", path: "volumes/" + id, into: &answer, key: "volume",
	}
	if err := c.do(ctx, k); err != nil {
		return Volume{}, c.unlessHidden(ctx, k, err)
	}
	return answer.Volume.volume(), describes(k, answer.Volume.ID, id)
}

// listedFor is how long a listing of volumes proves that the user may read volumes.
const listedFor = 5 * time.Second

// unlessHidden returns err, with which the reading of a volume ended, or another error
// if NotFound is not proved. Cinder says of a volume that its policy does not let the
// user read that it could not be found (cinder/volume/api.py, get). Where the policy
// forbids that, it forbids the listing of volumes as well, with 403.
func (c *Cloud) unlessHidden(ctx context.Context, k call, err error) error {
	if at := c.listed.Load(); !volume.IsKind(err, volume.KindNotFound) || at != nil && time.Since(*at) < listedFor {
		return err
	}
	_, _, errList := c.Volumes(ctx, VolumePage{Limit: 1})
	switch {
	case errList == nil:
		return err
	case volume.IsKind(errList, volume.KindDenied):
		return volume.Errorf(volume.KindDenied, "%s: the cloud's policy may hide the volume: the user may not list volumes either, and Cinder says of volumes that may not be read "+
			"that they could not be found: %w", k.what, errList).WithRemedy("give the user of the cloud's credentials a role that may read volumes")
	}
	return within(k.what+": whether the volume is gone or hidden by the cloud's policy is not known", errList)
}

// VolumesNamed returns the volumes of that very name; Cinder allows several.
func (c *Cloud) VolumesNamed(ctx context.Context, name string) ([]Volume, error) {
	var found []Volume
	for marker := ""; ; {
		page, next, err := c.listVolumes(ctx, "volumes named "+name, url.Values{"name": {name}, "marker": {marker}})
		if err != nil {
			return nil, err
		}
		for _, v := range page {
			// A filter that a cloud ignores must not make other volumes match.
			if v.Name == name {
				found = append(found, v)
			}
		}
		if next == "" || next == marker {
			return found, nil
		}
		marker = next
	}
}

// VolumePage selects a part of the project's volumes.
type VolumePage struct {
	Marker            string            // id of the last volume of the page before; empty: from the start
	Limit             int               // at most so many; 0: as many as Cinder gives (1000 by default)
	Metadata          map[string]string // only volumes that have all of these
	NewestChangeFirst bool              // else in a stable order: by age and id
}

// Volumes reads one page of the project's volumes and the marker of the next
// ("" after the last). Kind Stale: the marker's volume is gone.
func (c *Cloud) Volumes(ctx context.Context, page VolumePage) (vs []Volume, next string, err error) {
	params := url.Values{"marker": {page.Marker}, "sort": {"created_at:asc,id:asc"}}
	if page.NewestChangeFirst {
		params.Set("sort", "updated_at:desc,id:asc")
	}
	if page.Limit > 0 {
		params.Set("limit", strconv.Itoa(page.Limit))
	}
	if len(page.Metadata) > 0 {
		params.Set("metadata", pythonDict(page.Metadata))
	}
	return c.listVolumes(ctx, "volumes", params)
}

func (c *Cloud) listVolumes(ctx context.Context, what string, params url.Values) ([]Volume, string, error) {
	var answer struct {
		Volumes []wireVolume `json:"volumes"`
		Links   []link       `json:"volumes_links"`
	}
	err := c.do(ctx, call{
		service: blockStorage, name: "volume_list", what: "listing " + what, objects: params["marker"],
		method: "GET", path: query("volumes/detail", params), into: &answer, key: "volumes",
	})
	if err != nil {
		return nil, "", stale(err, params.Get("marker"))
	}
	now := time.Now()
	c.listed.Store(&now)
	vs := make([]Volume, len(answer.Volumes))
	for i := range answer.Volumes {
		vs[i] = answer.Volumes[i].volume()
	}
	if more(answer.Links) && len(vs) > 0 {
		return vs, vs[len(vs)-1].ID, nil
	}
	return vs, "", nil
}

// pythonDict writes a filter by metadata as Cinder reads it: a literal of
// Python (ast.literal_eval in its API).
func pythonDict(m map[string]string) string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\r", `\r`)
	var items []string
	for _, k := range sortedKeys(m) {
		items = append(items, fmt.Sprintf("'%s': '%s'", quote.Replace(k), quote.Replace(m[k])))
	}
	return "{" + strings.Join(items, ", ") + "}"
}

// Hints say where Cinder's scheduler is to put a volume.
type Hints struct {
	SameHost      []string // on the backend of all these volumes
	DifferentHost []string // on the backend of none of these
}

// NewVolume is what CreateVolume makes. At most one source is set.
type NewVolume struct {
	Name, Description            string
	Size                         int
	VolumeType, AvailabilityZone string // empty: the cloud's choice
	SnapshotID                   string
	SourceVolID                  string
	BackupID                     string
	Metadata                     map[string]string
	Hints                        *Hints
}

// CreateVolume asks for a volume, which Cinder then makes on its own: the
// answer is not a usable volume yet. It is never repeated when the answer got
// lost (kind Unavailable): look for the name before another attempt.
func (c *Cloud) CreateVolume(ctx context.Context, v NewVolume) (Volume, error) {
	request := map[string]any{"name": v.Name, "description": v.Description, "size": v.Size}
	if len(v.Metadata) > 0 {
		request["metadata"] = v.Metadata
	}
	for key, value := range map[string]string{
		"volume_type": v.VolumeType, "availability_zone": v.AvailabilityZone, "snapshot_id": v.SnapshotID, "source_volid": v.SourceVolID, "backup_id": v.BackupID,
	} {
		if value != "" {
			request[key] = value
		}
	}
	body := map[string]any{"volume": request}
	if h := v.Hints; h != nil {
		hints := map[string]any{}
		for key, ids := range map[string][]string{"same_host": h.SameHost, "different_host": h.DifferentHost} {
			if len(ids) > 0 {
				hints[key] = ids
			}
		}
		body["OS-SCH-HNT:scheduler_hints"] = hints
	}
	var answer struct {
		Volume wireVolume `json:"volume"`
	}
	k := call{
		service: blockStorage, name: "volume_create", what: fmt.Sprintf("creating volume %s of %d GiB", v.Name, v.Size),
		method: "POST", path: "volumes", body: body, into: &answer, key: "volume", ok: []int{200, 202},
		objects: []string{v.SnapshotID, v.SourceVolID, v.BackupID}, volType: v.VolumeType,
	}
	if v.BackupID != "" {
		k.needs = FeatureBackupSource.need()
	}
	err := c.do(ctx, k)
	return answer.Volume.volume(), err
}

// DeleteVolume asks for the deletion of a volume, which Cinder then does on its
// own. Kinds: NotFound, Precondition (in use, or snapshots depend on it).
func (c *Cloud) DeleteVolume(ctx context.Context, id string) error {
	if !known(id) {
		return unknown("volume", id)
	}
	return c.do(ctx, call{
		service: blockStorage, name: "volume_delete", what: "deleting volume " + id, method: "DELETE", path: "volumes/" + id, objects: []string{id},
	})
}

// ExtendVolume asks Cinder to grow a volume; it says nothing about whether that
// will work, let alone when. online: the volume is in use, which takes the
// feature OnlineExtend. Kinds: OutOfRange (quota, limits of the type),
// InProgress (the volume is in a state that forbids it now), NotFound.
func (c *Cloud) ExtendVolume(ctx context.Context, id string, sizeGiB int, online bool) error {
	k := call{
		name: "volume_extend", what: fmt.Sprintf("extending volume %s to %d GiB", id, sizeGiB),
		body: map[string]any{"os-extend": map[string]any{"new_size": sizeGiB}},
	}
	if online {
		k.needs = FeatureOnlineExtend.need()
	}
	return c.volumeAction(ctx, id, k)
}

// Retype asks for another volume type. policy is "never" or "on-demand", which
// lets Cinder move the volume to another backend.
func (c *Cloud) Retype(ctx context.Context, id, newType, policy string) error {
	return c.volumeAction(ctx, id, call{
		name: "volume_retype", what: fmt.Sprintf("changing the type of volume %s to %s", id, newType), volType: newType,
		body: map[string]any{"os-retype": map[string]any{"new_type": newType, "migration_policy": policy}},
	})
}

func (c *Cloud) volumeAction(ctx context.Context, id string, k call) error {
	if !known(id) {
		return unknown("volume", id)
	}
	k.service, k.method, k.path, k.ok, k.objects = blockStorage, "POST", "volumes/"+id+"/action", []int{200, 202}, []string{id}
	return c.do(ctx, k)
}

// SetVolumeMetadata sets the given keys and leaves the others as they are.
func (c *Cloud) SetVolumeMetadata(ctx context.Context, id string, kv map[string]string) error {
	if !known(id) {
		return unknown("volume", id)
	}
	return c.do(ctx, call{
		service: blockStorage, name: "volume_metadata", what: "setting metadata of volume " + id, objects: []string{id},
		method: "POST", path: "volumes/" + id + "/metadata", body: map[string]any{"metadata": maps.Clone(kv)}, ok: []int{200}, repeatable: true,
	})
}

package fakecloud

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// Volume is a volume as Cinder knows it.
type Volume struct {
	ID          string
	Name        string
	Description string
	Status      string
	Size        int    // GiB
	Type        string // name of the volume type
	Zone        string
	SnapshotID  string
	SourceID    string // of the volume it was cloned from
	BackupID    string // of the backup it was restored from
	Encrypted   bool
	Multiattach bool
	Metadata    map[string]string
	Hints       map[string]any // the scheduler hints it was created with
	Attachments []Attachment   // all of them, also those in passage
}

// Attachment is the attachment of a volume to a server.
type Attachment struct {
	ID       string
	ServerID string
	Device   string
	Status   string // reserved, attaching, attached, detaching
}

// The states of volumes, snapshots and attachments.
const (
	available      = "available"
	inUse          = "in-use"
	creating       = "creating"
	extending      = "extending"
	errorExtending = "error_extending"
	retyping       = "retyping"
	deleting       = "deleting"
	errorDeleting  = "error_deleting"
	failedState    = "error"
	isReserved     = "reserved"
	attaching      = "attaching"
	attached       = "attached"
	detaching      = "detaching"
	backingUp      = "backing-up"
)

type volume struct {
	Volume
	projectID, userID string
	typeID            string
	target            int // GiB while it is extending
	previous          string
	created, updated  time.Time
	attachedAt        map[string]time.Time // by attachment
}

func (v *volume) set(status string) { v.Status, v.updated = status, now() }

// settle returns to the state that follows from the attachments.
func (v *volume) settle() {
	if len(v.Attachments) > 0 {
		v.set(inUse)
		return
	}
	v.set(available)
}

func (v Volume) clone() Volume {
	v.Metadata, v.Hints, v.Attachments = maps.Clone(v.Metadata), maps.Clone(v.Hints), slices.Clone(v.Attachments)
	return v
}

// Volume returns a volume as it stands.
func (c *Cloud) Volume(id string) (Volume, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.volumes[id]
	if !ok {
		return Volume{}, false
	}
	return v.clone(), true
}

// Volumes returns all volumes, oldest first.
func (c *Cloud) Volumes() []Volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.SortedFunc(maps.Values(c.volumes), func(a, b *volume) int { return a.created.Compare(b.created) })
	out := make([]Volume, len(all))
	for i, v := range all {
		out[i] = v.clone()
	}
	return out
}

// AddVolume puts a volume into the project csi as it is given; ID, status,
// type and zone have defaults. It returns the ID.
func (c *Cloud) AddVolume(v Volume) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.ID == "" {
		v.ID = c.newID()
	}
	if v.Status == "" {
		v.Status = available
	}
	t := c.types[0]
	if v.Type != "" {
		t, _ = c.typeNamed(v.Type)
	}
	v.Type = t.Name
	if v.Zone == "" {
		v.Zone = c.opts.Zones[0]
	}
	if v.Metadata == nil {
		v.Metadata = map[string]string{}
	}
	u := c.users[0]
	c.volumes[v.ID] = &volume{Volume: v.clone(), typeID: t.ID, projectID: u.project, userID: u.id, created: now(), attachedAt: map[string]time.Time{}}
	return v.ID
}

// SetVolumeStatus overwrites the state of a volume.
func (c *Cloud) SetVolumeStatus(id, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.volumes[id]; v != nil {
		v.set(status)
	}
}

// SetVolumeSize overwrites the size in GiB.
func (c *Cloud) SetVolumeSize(id string, gib int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.volumes[id]; v != nil {
		v.Size, v.updated = gib, now()
	}
}

// RemoveVolume makes a volume vanish.
func (c *Cloud) RemoveVolume(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.volumes, id)
}

func volumeRoutes() []route {
	action := func(key string, call Call, h handler) route {
		r := cinderRoute(http.MethodPost, "/volumes/{id}/action", call, h)
		r.action = key
		return r
	}
	return []route{
		cinderRoute(http.MethodGet, "/volumes", ListVolumes, (*Cloud).listVolumes),
		cinderRoute(http.MethodGet, "/volumes/detail", ListVolumeDetail, (*Cloud).listVolumes),
		cinderRoute(http.MethodPost, "/volumes", CreateVolume, (*Cloud).createVolume),
		cinderRoute(http.MethodGet, "/volumes/{id}", GetVolume, (*Cloud).getVolume),
		cinderRoute(http.MethodPut, "/volumes/{id}", UpdateVolume, (*Cloud).updateVolume),
		cinderRoute(http.MethodDelete, "/volumes/{id}", DeleteVolume, (*Cloud).deleteVolume),
		cinderRoute(http.MethodGet, "/volumes/{id}/metadata", GetMetadata, (*Cloud).getMetadata),
		cinderRoute(http.MethodPost, "/volumes/{id}/metadata", SetMetadata, (*Cloud).setMetadata),
		cinderRoute(http.MethodPut, "/volumes/{id}/metadata", SetMetadata, (*Cloud).setMetadata),
		cinderRoute(http.MethodDelete, "/volumes/{id}/metadata/{key}", DeleteMetadata, (*Cloud).deleteMetadata),
		action("os-extend", ExtendVolume, (*Cloud).extendVolume),
		action("os-retype", RetypeVolume, (*Cloud).retypeVolume),
		action("os-reset_status", ResetStatus, (*Cloud).resetStatus),
	}
}

// volumeOf finds the volume in the path that the caller may see.
func (c *Cloud) volumeOf(x *exchange, id string) (*volume, *reply) {
	v := c.volumes[id]
	if v == nil || (v.projectID != x.token.projectID() && !x.token.has("admin")) {
		return nil, faultf(http.StatusNotFound, "Volume %s could not be found.", id)
	}
	return v, nil
}

// volumeView is a volume as it is shown alone and in detailed lists; the
// answers to changes have less.
func (c *Cloud) volumeView(x *exchange, v *volume) object {
	view := c.volumeSummary(x, v)
	view["os-vol-tenant-attr:tenant_id"] = v.projectID
	if !x.token.has("admin") {
		return view
	}
	view["os-vol-mig-status-attr:migstat"], view["os-vol-mig-status-attr:name_id"] = nil, nil
	view["os-vol-host-attr:host"] = "fake@rbd#rbd"
	if x.version.since(21) {
		view["provider_id"] = nil
	}
	if x.version.since(61) {
		view["cluster_name"] = nil
	}
	return view
}

func (c *Cloud) volumeSummary(x *exchange, v *volume) object {
	view := object{
		"id": v.ID, "status": v.Status, "size": v.Size, "availability_zone": v.Zone, "created_at": timeOrNull(v.created), "updated_at": timeOrNull(v.updated),
		"name": textOrNull(v.Name), "description": textOrNull(v.Description), "volume_type": v.Type, "snapshot_id": textOrNull(v.SnapshotID),
		"source_volid": textOrNull(v.SourceID), "metadata": maps.Clone(v.Metadata), "links": c.links(x, "volumes", v.ID), "user_id": v.userID, "bootable": "false",
		"encrypted": v.Encrypted, "replication_status": nil, "consistencygroup_id": nil, "multiattach": v.Multiattach, "attachments": attachmentViews(v),
	}
	if x.token.has("admin") {
		view["migration_status"] = nil
	}
	var service any
	if v.Status != creating {
		service = c.serviceID
	}
	for since, add := range map[int]object{
		13: {"group_id": nil}, 48: {"shared_targets": false, "service_uuid": service}, 63: {"volume_type_id": v.typeID}, 65: {"consumes_quota": true},
	} {
		if x.version.since(since) {
			maps.Copy(view, add)
		}
	}
	return view
}

// attachmentViews shows only what is attached: the rest is invisible here.
func attachmentViews(v *volume) []object {
	list := []object{}
	for _, a := range v.Attachments {
		if a.Status != attached && a.Status != detaching {
			continue
		}
		list = append(list, object{
			"id": v.ID, "attachment_id": a.ID, "volume_id": v.ID, "server_id": a.ServerID, "host_name": nil, "device": a.Device,
			"attached_at": timeOrNull(v.attachedAt[a.ID]),
		})
	}
	return list
}

func (c *Cloud) getVolume(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	return answer(http.StatusOK, object{"volume": c.volumeView(x, v)})
}

func (c *Cloud) updateVolume(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	in := objectReader{x.part("volume")}
	if bad := in.checkMetadata(); bad != nil {
		return bad
	}
	if _, ok := in.object["name"]; ok {
		v.Name = in.text("name")
	}
	if _, ok := in.object["description"]; ok {
		v.Description = in.text("description")
	}
	if _, ok := in.object["metadata"]; ok {
		v.Metadata = in.metadata()
	}
	v.updated = now()
	return answer(http.StatusOK, object{"volume": c.volumeSummary(x, v)})
}

func (c *Cloud) getMetadata(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	return answer(http.StatusOK, object{"metadata": maps.Clone(v.Metadata)})
}

// setMetadata adds to the metadata (POST) or replaces it (PUT).
func (c *Cloud) setMetadata(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	if bad := (objectReader{x.body}).checkMetadata(); bad != nil {
		return bad
	}
	if v.Status == "maintenance" || v.Status == "uploading" {
		return faultf(http.StatusBadRequest, "Invalid volume: Updating volume metadata is not allowed for volumes in %s status.", v.Status)
	}
	in := objectReader{x.body}.metadata()
	if x.http.Method == http.MethodPut {
		v.Metadata = map[string]string{}
	}
	maps.Copy(v.Metadata, in)
	v.updated = now()
	return answer(http.StatusOK, object{"metadata": maps.Clone(v.Metadata)})
}

func (c *Cloud) deleteMetadata(x *exchange) *reply {
	v, bad := c.volumeOf(x, x.values["id"])
	if bad != nil {
		return bad
	}
	if _, ok := v.Metadata[x.values["key"]]; !ok {
		return faultf(http.StatusNotFound, "Volume %s has no metadata with key %s.", v.ID, x.values["key"])
	}
	delete(v.Metadata, x.values["key"])
	return answer(http.StatusOK, nil)
}

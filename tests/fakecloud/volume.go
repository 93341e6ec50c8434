package fakecloud

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// Volume is a volume as Cinder shows it.
type Volume struct {
	ID          string
	Name        string
	Description string
	Status      string
	Size        int    // GiB
	Type        string // name of the volume type
	Zone        string
	SnapshotID  string
	SourceID    string // volume from which this one was cloned
	BackupID    string // backup from which this one was restored
	Encrypted   bool
	Multiattach bool
	Metadata    map[string]string
	Hints       map[string]any // scheduler hints of the request
	Attachments []Attachment   // in any state, also those that the volumes API does not show
}

// Attachment is Cinder's record of an attachment of a volume to a server.
type Attachment struct {
	ID       string
	ServerID string
	Device   string
	Status   string // reserved, attaching, attached, detaching
}

// The states of volumes, snapshots, backups and attachments.
const (
	statusAvailable      = "available"
	statusInUse          = "in-use"
	statusCreating       = "creating"
	statusExtending      = "extending"
	statusErrorExtending = "error_extending"
	statusRetyping       = "retyping"
	statusDeleting       = "deleting"
	statusErrorDeleting  = "error_deleting"
	statusError          = "error"
	statusReserved       = "reserved"
	statusAttaching      = "attaching"
	statusAttached       = "attached"
	statusDetaching      = "detaching"
	statusBackingUp      = "backing-up"
)

// volume is the state of a volume.
type volume struct {
	Volume
	projectID, userID string
	typeID            string
	targetSize        int // in GiB while the volume is extending; 0 otherwise
	previousStatus    string
	created, updated  time.Time
	attachedAt        map[string]time.Time // by the ID of the attachment
}

func (v *volume) setStatus(status string) { v.Status, v.updated = status, now() }

// settleStatus sets the state that follows from the attachments: in-use or available.
func (v *volume) settleStatus() {
	if len(v.Attachments) > 0 {
		v.setStatus(statusInUse)
		return
	}
	v.setStatus(statusAvailable)
}

func (v Volume) clone() Volume {
	v.Metadata, v.Hints, v.Attachments = maps.Clone(v.Metadata), maps.Clone(v.Hints), slices.Clone(v.Attachments)
	return v
}

// Volume returns the present state of a volume.
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

// AddVolume adds a volume to the project csi and returns its ID. ID, status, type and zone have
// defaults.
func (c *Cloud) AddVolume(v Volume) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.ID == "" {
		v.ID = c.newID()
	}
	if v.Status == "" {
		v.Status = statusAvailable
	}
	t := c.types[0]
	if v.Type != "" {
		t, _ = c.findType(v.Type)
	}
	v.Type = t.Name
	if v.Zone == "" {
		v.Zone = c.opts.Zones[0]
	}
	if v.Metadata == nil {
		v.Metadata = map[string]string{}
	}
	u := c.users[0]
	c.volumes[v.ID] = &volume{
		Volume:     v.clone(),
		typeID:     t.ID,
		projectID:  u.project,
		userID:     u.id,
		created:    now(),
		attachedAt: map[string]time.Time{},
	}
	return v.ID
}

// SetVolumeStatus overwrites the state of a volume.
func (c *Cloud) SetVolumeStatus(id, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.volumes[id]; v != nil {
		v.setStatus(status)
	}
}

// SetVolumeSize overwrites the size of a volume, in GiB.
func (c *Cloud) SetVolumeSize(id string, gib int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.volumes[id]; v != nil {
		v.Size, v.updated = gib, now()
	}
}

// RemoveVolume removes a volume at once, in any state.
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
		cinderRoute(http.MethodGet, "/volumes/{id}", GetVolume, onVolume((*Cloud).getVolume)),
		cinderRoute(http.MethodPut, "/volumes/{id}", UpdateVolume, onVolume((*Cloud).updateVolume)),
		cinderRoute(http.MethodDelete, "/volumes/{id}", DeleteVolume, onVolume((*Cloud).deleteVolume)),
		cinderRoute(http.MethodGet, "/volumes/{id}/metadata", GetMetadata, onVolume((*Cloud).getMetadata)),
		cinderRoute(http.MethodPost, "/volumes/{id}/metadata", SetMetadata, onVolume((*Cloud).setMetadata)),
		cinderRoute(http.MethodPut, "/volumes/{id}/metadata", SetMetadata, onVolume((*Cloud).setMetadata)),
		cinderRoute(http.MethodDelete, "/volumes/{id}/metadata/{key}", DeleteMetadata, onVolume((*Cloud).deleteMetadata)),
		action("os-extend", ExtendVolume, onVolume((*Cloud).extendVolume)),
		action("os-retype", RetypeVolume, onVolume((*Cloud).retypeVolume)),
		action("os-reset_status", ResetStatus, onVolume((*Cloud).resetStatus)),
	}
}

// onVolume returns a handler that calls h with the volume in the path of the request.
func onVolume(h func(*Cloud, *exchange, *volume) *reply) handler {
	return func(c *Cloud, x *exchange) *reply {
		o, refusal := c.findVolume(x, x.values["id"])
		if refusal != nil {
			return refusal
		}
		return h(c, x, o)
	}
}

// findVolume returns the volume with this ID, if the caller may see it.
func (c *Cloud) findVolume(x *exchange, id string) (*volume, *reply) {
	v := c.volumes[id]
	if v == nil || (v.projectID != x.token.projectID() && !x.token.hasRole("admin")) {
		return nil, apiErrorf(http.StatusNotFound, "Volume %s could not be found.", id)
	}
	return v, nil
}

// volumeView returns the fields of a volume in detailed answers.
func (c *Cloud) volumeView(x *exchange, v *volume) object {
	view := c.volumeSummary(x, v)
	view["os-vol-tenant-attr:tenant_id"] = v.projectID
	if !x.token.hasRole("admin") {
		return view
	}
	view["os-vol-mig-status-attr:migstat"], view["os-vol-mig-status-attr:name_id"] = nil, nil
	view["os-vol-host-attr:host"] = "fake@rbd#rbd"
	if x.version.isAtLeast(21) {
		view["provider_id"] = nil
	}
	if x.version.isAtLeast(61) {
		view["cluster_name"] = nil
	}
	return view
}

// volumeSummary returns the fields of a volume in the answers to creations and changes.
func (c *Cloud) volumeSummary(x *exchange, v *volume) object {
	view := object{
		"id":                  v.ID,
		"status":              v.Status,
		"size":                v.Size,
		"availability_zone":   v.Zone,
		"created_at":          timeOrNull(v.created),
		"updated_at":          timeOrNull(v.updated),
		"name":                textOrNull(v.Name),
		"description":         textOrNull(v.Description),
		"volume_type":         v.Type,
		"snapshot_id":         textOrNull(v.SnapshotID),
		"source_volid":        textOrNull(v.SourceID),
		"metadata":            maps.Clone(v.Metadata),
		"links":               c.resourceLinks(x, "volumes", v.ID),
		"user_id":             v.userID,
		"bootable":            "false",
		"encrypted":           v.Encrypted,
		"replication_status":  nil,
		"consistencygroup_id": nil,
		"multiattach":         v.Multiattach,
		"attachments":         attachmentViews(v),
	}
	if x.token.hasRole("admin") {
		view["migration_status"] = nil
	}
	var service any
	if v.Status != statusCreating {
		service = c.serviceID
	}
	for minor, fields := range map[int]object{
		13: {"group_id": nil}, 48: {"shared_targets": false, "service_uuid": service}, 63: {"volume_type_id": v.typeID},
		65: {"consumes_quota": true},
	} {
		if x.version.isAtLeast(minor) {
			maps.Copy(view, fields)
		}
	}
	return view
}

// attachmentViews returns the attachments that the volumes API shows: attached ones, until their
// detachment ends.
func attachmentViews(v *volume) []object {
	list := []object{}
	for _, a := range v.Attachments {
		if a.Status != statusAttached && a.Status != statusDetaching {
			continue
		}
		list = append(list, object{
			"id": v.ID, "attachment_id": a.ID, "volume_id": v.ID, "server_id": a.ServerID, "host_name": nil, "device": a.Device,
			"attached_at": timeOrNull(v.attachedAt[a.ID]),
		})
	}
	return list
}

func (c *Cloud) getVolume(x *exchange, v *volume) *reply {
	return newReply(http.StatusOK, object{"volume": c.volumeView(x, v)})
}

func (c *Cloud) updateVolume(x *exchange, v *volume) *reply {
	in := objectReader{x.object("volume")}
	if refusal := in.checkMetadata(); refusal != nil {
		return refusal
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
	return newReply(http.StatusOK, object{"volume": c.volumeSummary(x, v)})
}

func (c *Cloud) getMetadata(_ *exchange, v *volume) *reply {
	return newReply(http.StatusOK, object{"metadata": maps.Clone(v.Metadata)})
}

// setMetadata adds to the metadata (POST) or replaces it (PUT).
func (c *Cloud) setMetadata(x *exchange, v *volume) *reply {
	if refusal := (objectReader{x.body}).checkMetadata(); refusal != nil {
		return refusal
	}
	if v.Status == "maintenance" || v.Status == "uploading" {
		return apiErrorf(http.StatusBadRequest,
			"Invalid volume: Updating volume metadata is not allowed for volumes in %s status.", v.Status)
	}
	in := objectReader{x.body}.metadata()
	if x.http.Method == http.MethodPut {
		v.Metadata = map[string]string{}
	}
	maps.Copy(v.Metadata, in)
	v.updated = now()
	return newReply(http.StatusOK, object{"metadata": maps.Clone(v.Metadata)})
}

func (c *Cloud) deleteMetadata(x *exchange, v *volume) *reply {
	if _, ok := v.Metadata[x.values["key"]]; !ok {
		return apiErrorf(http.StatusNotFound, "Volume %s has no metadata with key %s.", v.ID, x.values["key"])
	}
	delete(v.Metadata, x.values["key"])
	return newReply(http.StatusOK, nil)
}

package fakecloud

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// Server is an instance as Nova knows it.
type Server struct {
	ID     string
	Name   string
	Status string // ACTIVE, SHUTOFF, ERROR, …; only ACTIVE and PAUSED guests see a new size at once
	Zone   string
	Locked bool
}

type server struct {
	Server
	projectID, userID string
	created           time.Time
	disks             []*disk
	deleting          bool
}

// disk is a block device mapping: it is there from the request to attach until
// the detach is done.
type disk struct {
	id, volumeID, attachmentID string
	device                     string
	tag                        any
	deleteOnTermination        bool
	guestSize                  int  // GiB that the guest sees
	plugged                    bool // the guest has it
	lingers                    int  // requests that show it although it is detached
}

func (s *server) disk(volumeID string) *disk {
	if i := slices.IndexFunc(s.disks, func(d *disk) bool { return d.volumeID == volumeID }); i >= 0 {
		return s.disks[i]
	}
	return nil
}

func (s *server) unplug(volumeID string) {
	s.disks = slices.DeleteFunc(s.disks, func(d *disk) bool { return d.volumeID == volumeID })
}

// AddServer puts a running server into the project csi and returns its ID; an
// empty one is made up.
func (c *Cloud) AddServer(id string) string { return c.PutServer(Server{ID: id}) }

// PutServer adds a server or overwrites its fields. A server that begins to
// run sees the sizes that its volumes have.
func (c *Cloud) PutServer(s Server) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ID == "" {
		s.ID = c.newID()
	}
	if s.Name == "" {
		s.Name = "server-" + s.ID[:min(8, len(s.ID))]
	}
	if s.Status == "" {
		s.Status = "ACTIVE"
	}
	if s.Zone == "" {
		s.Zone = "nova"
	}
	have := c.servers[s.ID]
	if have == nil {
		have = &server{projectID: c.users[0].project, userID: c.users[0].id, created: now()}
		c.servers[s.ID] = have
	}
	boots := have.Status == "SHUTOFF" && s.Status == "ACTIVE"
	have.Server = s
	for _, d := range have.disks {
		if v := c.volumes[d.volumeID]; boots && v != nil {
			d.guestSize = v.Size
		}
	}
	return s.ID
}

// RemoveServer makes a server vanish the way a deletion ends: its volumes are
// detached.
func (c *Cloud) RemoveServer(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.servers[id]; s != nil {
		c.endServer(s)
	}
}

// LoseServer makes a server vanish and leaves its attachments in Cinder, as a
// purge of Nova's database does.
func (c *Cloud) LoseServer(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.servers, id)
}

// SetMaxDisks bounds the volumes of a server; 0 lifts the bound.
func (c *Cloud) SetMaxDisks(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.MaxDisks = n
}

func (c *Cloud) endServer(s *server) {
	for _, d := range slices.Clone(s.disks) {
		c.detached(s, d)
	}
	delete(c.servers, s.ID)
}

// GuestSize tells how many GiB the disk of a volume has in the eyes of the
// guest; ok is false while the guest has no such disk.
func (c *Cloud) GuestSize(serverID, volumeID string) (gib int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[serverID]
	if s == nil {
		return 0, false
	}
	if d := s.disk(volumeID); d != nil && d.plugged {
		return d.guestSize, true
	}
	return 0, false
}

func novaRoutes() []route {
	r := func(method, path string, call Call, h handler) route {
		return route{service: computePath, method: method, path: "/v2.1" + path, call: call, auth: true, handle: h}
	}
	action := func(key string, change func(*server)) route {
		a := r(http.MethodPost, "/servers/{id}/action", ChangeServer, func(c *Cloud, x *exchange) *reply {
			s, bad := c.serverOf(x)
			if bad == nil {
				change(s)
				bad = answer(http.StatusAccepted, nil)
			}
			return bad
		})
		a.action = key
		return a
	}
	versions := discovery(computePath, "/", false, http.StatusOK, func(c *Cloud) any {
		return object{"versions": []any{c.novaLegacyVersion(), c.novaVersion(false)}}
	})
	versions.bare = true
	return []route{
		versions,
		discovery(computePath, "/v2.1", false, http.StatusOK, func(c *Cloud) any { return object{"version": c.novaVersion(true)} }),
		r(http.MethodGet, "/servers", ListServers, (*Cloud).listServers),
		r(http.MethodGet, "/servers/detail", ListServers, (*Cloud).listServers),
		r(http.MethodGet, "/servers/{id}", GetServer, (*Cloud).getServer),
		r(http.MethodDelete, "/servers/{id}", DeleteServer, (*Cloud).deleteServer),
		action("lock", func(s *server) { s.Locked = true }),
		action("unlock", func(s *server) { s.Locked = false }),
		r(http.MethodGet, "/servers/{id}/os-volume_attachments", ListAttachments, (*Cloud).listAttachments),
		r(http.MethodPost, "/servers/{id}/os-volume_attachments", AttachVolume, (*Cloud).attachVolume),
		r(http.MethodGet, "/servers/{id}/os-volume_attachments/{volume}", GetAttachment, (*Cloud).getAttachment),
		r(http.MethodDelete, "/servers/{id}/os-volume_attachments/{volume}", DetachVolume, (*Cloud).detachVolume),
		r(http.MethodPost, "/os-server-external-events", SendEvents, (*Cloud).sendEvents),
	}
}

// novaLegacyVersion is the API without microversions that Nova still lists.
func (c *Cloud) novaLegacyVersion() object {
	return object{
		"id": "v2.0", "status": "SUPPORTED", "updated": "2011-01-21T11:33:21Z", "version": "", "min_version": "",
		"links": []any{link("self", c.url+computePath+"/v2/")},
	}
}

func (c *Cloud) novaVersion(long bool) object {
	v := object{
		"id": "v2.1", "status": "CURRENT", "updated": "2013-07-23T11:33:21Z",
		"version": c.nova.highest.String(), "min_version": c.nova.lowest.String(),
		"links": []any{link("self", c.url+computePath+"/v2.1/")},
	}
	if long {
		docs := link("describedby", "http://docs.openstack.org/")
		docs["type"] = "text/html"
		v["links"] = []any{link("self", c.url+computePath+"/v2.1/"), docs}
		v["media-types"] = []any{object{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}}
	}
	return v
}

func (c *Cloud) serverOf(x *exchange) (*server, *reply) {
	id := x.values["id"]
	s := c.servers[id]
	if s == nil || (s.projectID != x.token.projectID() && !x.token.has("admin")) {
		return nil, faultf(http.StatusNotFound, "Instance %s could not be found.", id)
	}
	return s, nil
}

func (c *Cloud) serverLinks(s *server) []any {
	return []any{link("self", c.url+computePath+"/v2.1/servers/"+s.ID), link("bookmark", c.url+computePath+"/servers/"+s.ID)}
}

func (c *Cloud) serverView(x *exchange, s *server) object {
	state := map[string]string{"ACTIVE": "active", "SHUTOFF": "stopped", "ERROR": "error", "PAUSED": "paused", "DELETED": "deleted"}[s.Status]
	var task any
	if s.deleting {
		task = "deleting"
	}
	volumes := []object{}
	for _, d := range s.disks {
		v := object{"id": d.volumeID}
		if x.version.since(3) {
			v["delete_on_termination"] = d.deleteOnTermination
		}
		volumes = append(volumes, v)
	}
	view := object{
		"id": s.ID, "name": s.Name, "status": s.Status, "tenant_id": s.projectID, "user_id": s.userID, "metadata": object{},
		"hostId": "0f7a1b", "image": object{"id": "tiny", "links": []any{link("bookmark", c.url+computePath+"/images/tiny")}},
		"flavor":  object{"id": "1", "links": []any{link("bookmark", c.url+computePath+"/flavors/1")}},
		"created": s.created.Format(time.RFC3339), "updated": s.created.Format(time.RFC3339), "addresses": object{}, "accessIPv4": "", "accessIPv6": "",
		"links": c.serverLinks(s), "OS-DCF:diskConfig": "MANUAL", "progress": 0, "OS-EXT-AZ:availability_zone": s.Zone, "config_drive": "", "key_name": nil,
		"OS-SRV-USG:launched_at": s.created.Format(wireTime), "OS-SRV-USG:terminated_at": nil, "OS-EXT-STS:task_state": task,
		"OS-EXT-STS:vm_state": state, "OS-EXT-STS:power_state": 1, "os-extended-volumes:volumes_attached": volumes,
	}
	for since, add := range map[int]object{
		9: {"locked": s.Locked}, 19: {"description": nil}, 26: {"tags": []any{}}, 63: {"trusted_image_certificates": nil},
		73: {"locked_reason": nil}, 71: {"server_groups": []any{}},
		90: {"OS-EXT-SRV-ATTR:hostname": s.Name},
	} {
		if x.version.since(since) {
			maps.Copy(view, add)
		}
	}
	if x.version.since(47) {
		view["flavor"] = object{"vcpus": 1, "ram": 128, "disk": 1, "ephemeral": 0, "swap": 0, "original_name": "t1", "extra_specs": object{}}
	}
	return view
}

func (c *Cloud) getServer(x *exchange) *reply {
	s, bad := c.serverOf(x)
	if bad != nil {
		return bad
	}
	return answer(http.StatusOK, object{"server": c.serverView(x, s)})
}

func (c *Cloud) listServers(x *exchange) *reply {
	var found []*server
	for _, s := range c.servers {
		if s.projectID == x.token.projectID() {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *server) int { return b.created.Compare(a.created) })
	p, bad := newPage(x, c.opts.ListLimit)
	if bad != nil {
		return bad
	}
	cutOut, more, bad := paged(p, found, func(s *server) string { return s.ID }, "marker [%s] not found")
	if bad != nil {
		return bad
	}
	list := []object{}
	for _, s := range cutOut {
		if x.route.path == "/v2.1/servers/detail" {
			list = append(list, c.serverView(x, s))
			continue
		}
		list = append(list, object{"id": s.ID, "name": s.Name, "links": c.serverLinks(s)})
	}
	out := object{"servers": list}
	if more != "" {
		out["servers_links"] = []any{link("next", c.next(x, more))}
	}
	return answer(http.StatusOK, out)
}

// deleteServer frees the volumes and then, for a moment, still shows the
// server as deleted.
func (c *Cloud) deleteServer(x *exchange) *reply {
	s, bad := c.serverOf(x)
	if bad != nil {
		return bad
	}
	if s.Locked {
		return faultf(http.StatusConflict, "Instance %s is locked", s.ID)
	}
	s.deleting = true
	c.work(x, s.ID, func() {
		s.deleting, s.Status = false, "DELETED"
		for _, d := range slices.Clone(s.disks) {
			c.detached(s, d)
		}
		c.later(c.doneTime(DeleteServer)/4, func() { c.endServer(s) })
	})
	return answer(http.StatusNoContent, nil)
}

package fakecloud

import (
	"maps"
	"net/http"
	"slices"
	"time"
)

// Server is an instance as Nova shows it.
type Server struct {
	ID     string
	Name   string
	Status string // ACTIVE, SHUTOFF, ERROR, …; an ACTIVE or PAUSED guest sees a new size at once
	Zone   string
	Locked bool
}

// server is the state of a server.
type server struct {
	Server
	projectID, userID string
	created           time.Time
	disks             []*disk
	isDeleting        bool
}

// disk is a block device mapping of Nova. It exists from the request to attach to the end of the
// detachment.
type disk struct {
	id, volumeID, attachmentID string
	device                     string
	tag                        any
	deleteOnTermination        bool
	guestSize                  int  // in GiB, as the guest sees it
	inGuest                    bool // the guest has the disk
	staleReads                 int  // requests that still show the detached disk
}

// findDisk returns the disk of a volume, or nil.
func (s *server) findDisk(volumeID string) *disk {
	if i := slices.IndexFunc(s.disks, func(d *disk) bool { return d.volumeID == volumeID }); i >= 0 {
		return s.disks[i]
	}
	return nil
}

func (s *server) removeDisk(volumeID string) {
	s.disks = slices.DeleteFunc(s.disks, func(d *disk) bool { return d.volumeID == volumeID })
}

// AddServer adds a running server to the project csi and returns its ID. An empty id stands for a
// new random one.
func (c *Cloud) AddServer(id string) string { return c.SetServer(Server{ID: id}) }

// SetServer adds a server to the project csi or overwrites its fields, and returns its ID. When a
// server goes from SHUTOFF to ACTIVE, its guest sees the present sizes of the volumes.
func (c *Cloud) SetServer(s Server) string {
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
	state := c.servers[s.ID]
	if state == nil {
		state = &server{projectID: c.users[0].project, userID: c.users[0].id, created: now()}
		c.servers[s.ID] = state
	}
	boots := state.Status == "SHUTOFF" && s.Status == "ACTIVE"
	state.Server = s
	for _, d := range state.disks {
		if v := c.volumes[d.volumeID]; boots && v != nil {
			d.guestSize = v.Size
		}
	}
	return s.ID
}

// RemoveServer removes a server at once and detaches its volumes, as a deletion does in the end.
func (c *Cloud) RemoveServer(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.servers[id]; s != nil {
		c.removeServerLocked(s)
	}
}

// PurgeServer removes a server but leaves its attachments in Cinder, as a purge of Nova's database
// does.
func (c *Cloud) PurgeServer(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.servers, id)
}

// SetMaxDisks sets the maximum disks of a server; 0 sets no limit.
func (c *Cloud) SetMaxDisks(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opts.MaxDisks = n
}

// removeServerLocked is RemoveServer for a caller that holds c.mu.
func (c *Cloud) removeServerLocked(s *server) {
	for _, d := range slices.Clone(s.disks) {
		c.endAttachment(s, d)
	}
	delete(c.servers, s.ID)
}

// GuestSize returns the size in GiB that the guest sees. ok is false if the guest has no disk of
// the volume.
func (c *Cloud) GuestSize(serverID, volumeID string) (gib int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[serverID]
	if s == nil {
		return 0, false
	}
	if d := s.findDisk(volumeID); d != nil && d.inGuest {
		return d.guestSize, true
	}
	return 0, false
}

// onServer returns a handler that calls h with the server in the path of the request, if the caller
// may see it.
func onServer(h func(*Cloud, *exchange, *server) *reply) handler {
	return func(c *Cloud, x *exchange) *reply {
		id := x.values["id"]
		s := c.servers[id]
		if s == nil || (s.projectID != x.token.projectID() && !x.token.hasRole("admin")) {
			return apiErrorf(http.StatusNotFound, "Instance %s could not be found.", id)
		}
		return h(c, x, s)
	}
}

func (c *Cloud) serverLinks(s *server) []any {
	return []any{
		link("self", c.url+computePath+"/v2.1/servers/"+s.ID), link("bookmark", c.url+computePath+"/servers/"+s.ID),
	}
}

func (c *Cloud) serverView(x *exchange, s *server) object {
	vmState := map[string]string{
		"ACTIVE": "active", "SHUTOFF": "stopped", "ERROR": "error", "PAUSED": "paused", "DELETED": "deleted",
	}[s.Status]
	var task any
	if s.isDeleting {
		task = "deleting"
	}
	volumes := []object{}
	for _, d := range s.disks {
		v := object{"id": d.volumeID}
		if x.version.isAtLeast(3) {
			v["delete_on_termination"] = d.deleteOnTermination
		}
		volumes = append(volumes, v)
	}
	bookmark := func(collection, id string) []any {
		return []any{link("bookmark", c.url+computePath+"/"+collection+"/"+id)}
	}
	view := object{
		"id":                                   s.ID,
		"name":                                 s.Name,
		"status":                               s.Status,
		"tenant_id":                            s.projectID,
		"user_id":                              s.userID,
		"metadata":                             object{},
		"hostId":                               "0f7a1b",
		"image":                                object{"id": "tiny", "links": bookmark("images", "tiny")},
		"flavor":                               object{"id": "1", "links": bookmark("flavors", "1")},
		"created":                              s.created.Format(time.RFC3339),
		"updated":                              s.created.Format(time.RFC3339),
		"addresses":                            object{},
		"accessIPv4":                           "",
		"accessIPv6":                           "",
		"links":                                c.serverLinks(s),
		"progress":                             0,
		"config_drive":                         "",
		"key_name":                             nil,
		"OS-DCF:diskConfig":                    "MANUAL",
		"OS-EXT-AZ:availability_zone":          s.Zone,
		"OS-SRV-USG:launched_at":               s.created.Format(timeLayout),
		"OS-SRV-USG:terminated_at":             nil,
		"OS-EXT-STS:task_state":                task,
		"OS-EXT-STS:vm_state":                  vmState,
		"OS-EXT-STS:power_state":               1,
		"os-extended-volumes:volumes_attached": volumes,
	}
	for minor, fields := range map[int]object{
		9: {"locked": s.Locked}, 19: {"description": nil}, 26: {"tags": []any{}}, 63: {"trusted_image_certificates": nil},
		73: {"locked_reason": nil}, 71: {"server_groups": []any{}},
		90: {"OS-EXT-SRV-ATTR:hostname": s.Name},
	} {
		if x.version.isAtLeast(minor) {
			maps.Copy(view, fields)
		}
	}
	if x.version.isAtLeast(47) {
		view["flavor"] = object{
			"vcpus": 1, "ram": 128, "disk": 1, "ephemeral": 0, "swap": 0, "original_name": "t1", "extra_specs": object{},
		}
	}
	return view
}

func (c *Cloud) getServer(x *exchange, s *server) *reply {
	return newReply(http.StatusOK, object{"server": c.serverView(x, s)})
}

func (c *Cloud) listServers(x *exchange) *reply {
	var found []*server
	for _, s := range c.servers {
		if s.projectID == x.token.projectID() {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *server) int { return b.created.Compare(a.created) })
	p, refusal := parsePage(x, c.opts.ListLimit)
	if refusal != nil {
		return refusal
	}
	shown, nextMarker, refusal := cutPage(p, found, func(s *server) string { return s.ID }, "marker [%s] not found")
	if refusal != nil {
		return refusal
	}
	list := []object{}
	for _, s := range shown {
		if x.route.path == "/v2.1/servers/detail" {
			list = append(list, c.serverView(x, s))
			continue
		}
		list = append(list, object{"id": s.ID, "name": s.Name, "links": c.serverLinks(s)})
	}
	return newReply(http.StatusOK, c.newListBody(x, "servers", "servers_links", list, nextMarker))
}

// deleteServer detaches the volumes after the answer. Then Nova shows the server as DELETED for a
// moment before the server is gone.
func (c *Cloud) deleteServer(x *exchange, s *server) *reply {
	if s.Locked {
		return apiErrorf(http.StatusConflict, "Instance %s is locked", s.ID)
	}
	s.isDeleting = true
	c.runWork(x, s.ID, func() {
		s.isDeleting, s.Status = false, "DELETED"
		for _, d := range slices.Clone(s.disks) {
			c.endAttachment(s, d)
		}
		c.runAfter(c.drawWorkTime(DeleteServer)/4, func() { c.removeServerLocked(s) })
	})
	return newReply(http.StatusNoContent, nil)
}

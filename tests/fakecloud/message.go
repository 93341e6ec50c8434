package fakecloud

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// message is a user message: what became of a call after its answer.
type message struct {
	id, requestID, resource string
	kind                    string // VOLUME, VOLUME_SNAPSHOT
	action, detail          string // three digits
	created                 time.Time
}

// The messages that the fake leaves, by the numbers of Cinder.
const (
	actionSchedule = "001"
	actionExtend   = "007"
	actionCreate   = "008"
	actionSnapshot = "009"
	actionUnsnap   = "010"

	detailNoBackend     = "003"
	detailNotifyFailed  = "009"
	detailExtendFailed  = "010"
	detailCreateFailed  = "012"
	detailSnapshotError = "013"
	detailSnapshotBusy  = "015"
)

func actionText(id string) string {
	return map[string]string{
		actionSchedule: "schedule allocate volume", actionExtend: "extend volume",
		actionCreate: "create volume from backend storage", actionSnapshot: "create snapshot", actionUnsnap: "delete snapshot",
	}[id]
}

func detailText(id string) string {
	return map[string]string{
		detailNoBackend:     "Could not find any available weighted backend.",
		detailNotifyFailed:  "Compute service failed to extend volume.",
		detailExtendFailed:  "Volume Driver failed to extend volume.",
		detailCreateFailed:  "Driver failed to create the volume.",
		detailSnapshotError: "Snapshot failed to create.",
		detailSnapshotBusy:  "Snapshot is busy.",
	}[id]
}

func messageRoutes() []route {
	list := cinderRoute(http.MethodGet, "/messages", ListMsgs, (*Cloud).listMessages)
	get := cinderRoute(http.MethodGet, "/messages/{id}", GetMessage, (*Cloud).getMessage)
	list.since, get.since = 3, 3
	return []route{list, get}
}

// tell leaves a message about a volume; the lock is held.
func (c *Cloud) tell(x *exchange, volumeID, action, detail string) {
	c.tellOf(x, "VOLUME", volumeID, action, detail)
}

// AgeMessages makes the messages that there are older.
func (c *Cloud) AgeMessages(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.messages {
		c.messages[i].created = c.messages[i].created.Add(-by)
	}
}

func (c *Cloud) tellOf(x *exchange, kind, id, action, detail string) {
	c.messages = append(c.messages, message{
		id: c.newID(), requestID: x.requestID, resource: id, kind: kind, action: action, detail: detail, created: now(),
	})
}

func (m message) event() string { return "VOLUME_" + m.kind + "_" + m.action + "_" + m.detail }

func (c *Cloud) messageView(x *exchange, m message) object {
	return object{
		"id": m.id, "event_id": m.event(), "user_message": actionText(m.action) + ":" + detailText(m.detail), "message_level": "ERROR",
		"created_at": timeOrNull(m.created), "guaranteed_until": timeOrNull(m.created.Add(30 * 24 * time.Hour)),
		"request_id": m.requestID, "links": c.links(x, "messages", m.id), "resource_type": m.kind, "resource_uuid": m.resource,
	}
}

func (c *Cloud) listMessages(x *exchange) *reply {
	found := slices.Clone(c.messages)
	slices.Reverse(found) // the newest first
	p, bad := newPage(x, c.opts.ListLimit)
	if bad != nil {
		return bad
	}
	if x.version.since(31) {
		if bad := p.reject("resource_uuid", "resource_type", "event_id", "request_id", "message_level"); bad != nil {
			return bad
		}
	}
	if x.version.since(5) {
		fields := func(m message) map[string]string {
			return map[string]string{"resource_uuid": m.resource, "resource_type": m.kind, "event_id": m.event(), "request_id": m.requestID, "message_level": "ERROR"}
		}
		found = slices.DeleteFunc(found, func(m message) bool {
			have := fields(m)
			return !p.keeps(func(key string) (string, bool) { v, ok := have[key]; return v, ok })
		})
	}
	cutOut, more, bad := paged(p, found, func(m message) string { return m.id }, "Message %s could not be found.")
	if bad != nil {
		return bad
	}
	list := []object{}
	for _, m := range cutOut {
		list = append(list, c.messageView(x, m))
	}
	out := object{"messages": list}
	if more != "" {
		out["messages_links"] = []any{link("next", c.next(x, more))}
	}
	return answer(http.StatusOK, out)
}

func (c *Cloud) getMessage(x *exchange) *reply {
	for _, m := range c.messages {
		if m.id == x.values["id"] {
			return answer(http.StatusOK, object{"message": c.messageView(x, m)})
		}
	}
	return faultf(http.StatusNotFound, "Message %s could not be found.", x.values["id"])
}

// links are the links of a thing in the body.
func (c *Cloud) links(x *exchange, collection, id string) []any {
	path := "/" + collection + "/" + id
	if p := x.values["project"]; p != "" {
		path = "/" + p + path
	}
	return []any{link("self", c.url+volumePath+"/v3"+path), link("bookmark", c.url+volumePath+path)}
}

// next is the address of the page after the one that ends with marker.
func (c *Cloud) next(x *exchange, marker string) string {
	q := x.http.URL.Query()
	q.Set("marker", marker)
	return c.url + strings.TrimSuffix(x.http.URL.Path, "/") + "?" + q.Encode()
}

package fakecloud

import (
	"net/http"
	"slices"
	"time"
)

// message is a user message of Cinder: the result of a request after its answer.
type message struct {
	id, requestID, resource string
	kind                    string // VOLUME or VOLUME_SNAPSHOT
	action, detail          string // numbers of three digits, as below
	created                 time.Time
}

// The numbers of actions and details in the messages that the fake leaves, as in
// cinder/message/message_field.py.
const (
	actionScheduleVolume = "001"
	actionExtendVolume   = "007"
	actionCreateVolume   = "008"
	actionCreateSnapshot = "009"
	actionDeleteSnapshot = "010"

	detailNoBackend      = "003"
	detailNotifyFailed   = "009"
	detailExtendFailed   = "010"
	detailCreateFailed   = "012"
	detailSnapshotFailed = "013"
	detailSnapshotBusy   = "015"
)

func actionText(id string) string {
	return map[string]string{
		actionScheduleVolume: "schedule allocate volume", actionExtendVolume: "extend volume",
		actionCreateVolume: "create volume from backend storage", actionCreateSnapshot: "create snapshot",
		actionDeleteSnapshot: "delete snapshot",
	}[id]
}

func detailText(id string) string {
	return map[string]string{
		detailNoBackend:      "Could not find any available weighted backend.",
		detailNotifyFailed:   "Compute service failed to extend volume.",
		detailExtendFailed:   "Volume Driver failed to extend volume.",
		detailCreateFailed:   "Driver failed to create the volume.",
		detailSnapshotFailed: "Snapshot failed to create.",
		detailSnapshotBusy:   "Snapshot is busy.",
	}[id]
}

func messageRoutes() []route {
	list := cinderRoute(http.MethodGet, "/messages", ListMessages, (*Cloud).listMessages)
	get := cinderRoute(http.MethodGet, "/messages/{id}", GetMessage, (*Cloud).getMessage)
	list.minMinor, get.minMinor = 3, 3
	return []route{list, get}
}

// addVolumeMessage adds a message about a volume; the caller holds c.mu.
func (c *Cloud) addVolumeMessage(x *exchange, volumeID, action, detail string) {
	c.addMessage(x, "VOLUME", volumeID, action, detail)
}

// AgeMessages moves the creation time of all present messages into the past.
func (c *Cloud) AgeMessages(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.messages {
		c.messages[i].created = c.messages[i].created.Add(-by)
	}
}

// addMessage adds a message about the resource of this kind and ID; the caller holds c.mu.
func (c *Cloud) addMessage(x *exchange, kind, id, action, detail string) {
	c.messages = append(c.messages, message{
		id: c.newID(), requestID: x.requestID, resource: id, kind: kind, action: action, detail: detail, created: now(),
	})
}

// eventID returns the ID by which clients recognize the kind of message.
func (m message) eventID() string { return "VOLUME_" + m.kind + "_" + m.action + "_" + m.detail }

func (c *Cloud) messageView(x *exchange, m message) object {
	return object{
		"id":               m.id,
		"event_id":         m.eventID(),
		"user_message":     actionText(m.action) + ":" + detailText(m.detail),
		"message_level":    "ERROR",
		"created_at":       timeOrNull(m.created),
		"guaranteed_until": timeOrNull(m.created.Add(30 * 24 * time.Hour)),
		"request_id":       m.requestID,
		"links":            c.resourceLinks(x, "messages", m.id),
		"resource_type":    m.kind,
		"resource_uuid":    m.resource,
	}
}

func (c *Cloud) listMessages(x *exchange) *reply {
	found := slices.Clone(c.messages)
	slices.Reverse(found) // newest first
	p, refusal := parsePage(x, c.opts.ListLimit)
	if refusal != nil {
		return refusal
	}
	if x.version.isAtLeast(31) {
		known := []string{"resource_uuid", "resource_type", "event_id", "request_id", "message_level"}
		if refusal := p.checkFilters(known...); refusal != nil {
			return refusal
		}
	}
	if x.version.isAtLeast(5) {
		found = slices.DeleteFunc(found, func(m message) bool {
			fields := map[string]string{
				"resource_uuid": m.resource, "resource_type": m.kind, "event_id": m.eventID(),
				"request_id": m.requestID, "message_level": "ERROR",
			}
			return !p.matches(fields)
		})
	}
	shown, nextMarker, refusal := cutPage(p, found,
		func(m message) string { return m.id }, "Message %s could not be found.")
	if refusal != nil {
		return refusal
	}
	list := []object{}
	for _, m := range shown {
		list = append(list, c.messageView(x, m))
	}
	return newReply(http.StatusOK, c.newListBody(x, "messages", "messages_links", list, nextMarker))
}

func (c *Cloud) getMessage(x *exchange) *reply {
	for _, m := range c.messages {
		if m.id == x.values["id"] {
			return newReply(http.StatusOK, object{"message": c.messageView(x, m)})
		}
	}
	return apiErrorf(http.StatusNotFound, "Message %s could not be found.", x.values["id"])
}

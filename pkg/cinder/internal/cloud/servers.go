package cloud

import (
	"context"
	"fmt"

	"github.com/growvol/growvol/pkg/volume"
)

// Server is a Nova server, as far as volumes concern it.
type Server struct{ ID, Status string }

// Server reads a server. Kind NotFound: Nova does not know it.
func (c *Cloud) Server(ctx context.Context, id string) (Server, error) {
	if !known(id) {
		return Server{}, unknown("server", id)
	}
	var answer struct {
		Server struct {
			ID     string `json:"id"`
			Status string `json:"status"`
		} `json:"server"`
	}
	k := call{
		service: compute, name: "server_get", what: "reading server " + id, objects: []string{id},
		method: "GET", path: "servers/" + id, into: &answer, key: "server",
	}
	if err := c.do(ctx, k); err != nil {
		return Server{}, err
	}
	s := Server{ID: answer.Server.ID, Status: answer.Server.Status}
	return s, describes(k, s.ID, id)
}

// Attach asks Nova to plug a volume into a server, which it then does on its
// own. multiattach: the volume may be attached to several servers, which takes
// the feature Multiattach. Kinds: NotFound (the message says which of the two),
// AlreadyExists (attached to this server already), Precondition (wrong state,
// or attached elsewhere), Exhausted (no slot left), InProgress (Nova does
// something else with the server).
func (c *Cloud) Attach(ctx context.Context, server, volumeID string, multiattach bool) error {
	if err := pair(server, volumeID); err != nil {
		return err
	}
	k := call{
		service: compute, name: "volume_attach", what: fmt.Sprintf("attaching volume %s to server %s", volumeID, server),
		method: "POST", path: "servers/" + server + "/os-volume_attachments", ok: []int{200, 202}, server: server,
		objects: []string{server, volumeID},
		body:    map[string]any{"volumeAttachment": map[string]any{"volumeId": volumeID}},
	}
	if multiattach {
		k.needs = FeatureMultiattach.need()
	}
	return c.do(ctx, k)
}

// Detach asks Nova to unplug a volume from a server, which it then does on its
// own. Kinds: NotFound (not attached there, or no such server), InProgress (the
// server or the attachment is busy), Precondition (state of the volume).
func (c *Cloud) Detach(ctx context.Context, server, volumeID string) error {
	if err := pair(server, volumeID); err != nil {
		return err
	}
	return c.do(ctx, call{
		service: compute, name: "volume_detach", what: fmt.Sprintf("detaching volume %s from server %s", volumeID, server),
		method: "DELETE", path: "servers/" + server + "/os-volume_attachments/" + volumeID, objects: []string{server, volumeID},
	})
}

// ServerAttachment tells whether Nova has a volume on a server, be it only just
// arriving or leaving. A server that does not exist has none.
func (c *Cloud) ServerAttachment(ctx context.Context, server, volumeID string) (found bool, err error) {
	if !known(server) || !known(volumeID) {
		return false, nil
	}
	var answer struct {
		Attachment struct {
			VolumeID string `json:"volumeId"`
		} `json:"volumeAttachment"`
	}
	k := call{
		service: compute, name: "attachment_get", what: fmt.Sprintf("looking for volume %s on server %s", volumeID, server),
		method: "GET", path: "servers/" + server + "/os-volume_attachments/" + volumeID, into: &answer, key: "volumeAttachment",
		objects: []string{server, volumeID},
	}
	err = c.do(ctx, k)
	if err == nil {
		err = describes(k, answer.Attachment.VolumeID, volumeID)
	}
	if volume.IsKind(err, volume.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

// NotifyExtended tells Nova that a volume of a server has grown, as Cinder does
// by itself when it is set up to. Kinds: Denied (the policy leaves this to
// services), NotFound (Nova knows no such server), Unsupported.
func (c *Cloud) NotifyExtended(ctx context.Context, server, volumeID string) error {
	if err := pair(server, volumeID); err != nil {
		return err
	}
	var answer struct {
		Events []struct {
			Server string `json:"server_uuid"`
			Code   int    `json:"code"`
			Status string `json:"status"`
		} `json:"events"`
	}
	event := map[string]any{"name": "volume-extended", "server_uuid": server, "tag": volumeID}
	k := call{
		service: compute, name: "notify_extended", what: fmt.Sprintf("telling server %s that volume %s has grown", server, volumeID),
		method: "POST", path: "os-server-external-events", body: map[string]any{"events": []any{event}}, into: &answer, key: "events",
		ok: []int{200, 207}, needs: FeatureExternalEvents.need(), repeatable: true, objects: []string{server},
	}
	if err := c.do(ctx, k); err != nil {
		return err
	}
	// The answer to several events is good as a whole when one of them is; each
	// has its own code.
	for _, e := range answer.Events {
		if e.Code >= 300 {
			return eventRefused(k, e.Server, e.Code, e.Status)
		}
	}
	return nil
}

// pair checks the ids of a server and a volume.
func pair(server, volumeID string) error {
	if !known(server) {
		return unknown("server", server)
	}
	if !known(volumeID) {
		return unknown("volume", volumeID)
	}
	return nil
}

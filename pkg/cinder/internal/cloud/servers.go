package cloud

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/volumeattach"

	"github.com/growvol/growvol/pkg/volume"
)

// Server is a Nova server, as far as volumes concern it.
type Server struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// Server reads a server. Kind NotFound: Nova does not know it.
func (c *Cloud) Server(ctx context.Context, id string) (Server, error) {
	k := novaCall("server_get", "reading server "+id, object{"server", id})
	return get(ctx, c, k, func(client *serviceClient) (*Server, error) {
		var s Server
		return &s, servers.Get(ctx, client, id).ExtractInto(&s)
	})
}

// Attach asks Nova to attach a volume to a server, which it then does on its own. multiattach: the
// volume may be attached to several servers, which takes FeatureMultiattach. Kinds: NotFound (the
// message says which of the two), AlreadyExists (attached to this server already), Precondition
// (wrong state, or attached elsewhere), Exhausted (no slot left), InProgress (Nova does something
// else with the server).
func (c *Cloud) Attach(ctx context.Context, server, volumeID string, multiattach bool) error {
	what := fmt.Sprintf("attaching volume %s to server %s", volumeID, server)
	k := novaCall("volume_attach", what, object{"server", server}, object{"volume", volumeID})
	if multiattach {
		k.needs = FeatureMultiattach.need()
	}
	return c.run(ctx, k, func(client *serviceClient) error {
		return volumeattach.Create(ctx, client, server, volumeattach.CreateOpts{VolumeID: volumeID}).Err
	})
}

// Detach asks Nova to detach a volume from a server, which it then does on its own. Kinds:
// NotFound (not attached there, or no such server), InProgress (the server or the attachment is
// busy), Precondition (state of the volume).
func (c *Cloud) Detach(ctx context.Context, server, volumeID string) error {
	what := fmt.Sprintf("detaching volume %s from server %s", volumeID, server)
	k := novaCall("volume_detach", what, object{"server", server}, object{"volume", volumeID})
	return c.run(ctx, k, func(client *serviceClient) error {
		return volumeattach.Delete(ctx, client, server, volumeID).ExtractErr()
	})
}

// ServerAttachment reports whether Nova has a volume on a server, also while it attaches or
// detaches it. A server that does not exist has none.
func (c *Cloud) ServerAttachment(ctx context.Context, server, volumeID string) (found bool, err error) {
	what := fmt.Sprintf("looking for volume %s on server %s", volumeID, server)
	k := novaCall("attachment_get", what, object{"server", server}, object{"volume", volumeID})
	k.key, k.idField = "volumeAttachment", "volumeId"
	err = c.run(ctx, k, func(client *serviceClient) error { return volumeattach.Get(ctx, client, server, volumeID).Err })
	if volume.IsKind(err, volume.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

// NotifyExtended tells Nova that a volume of a server has grown, as Cinder does by itself when it
// is set up to. Kinds: Denied (the policy leaves this to services), NotFound (Nova knows no such
// server), Unsupported.
func (c *Cloud) NotifyExtended(ctx context.Context, server, volumeID string) error {
	what := fmt.Sprintf("telling server %s that volume %s has grown", server, volumeID)
	k := novaCall("notify_extended", what, object{"server", server}) // no 404 is about the volume
	k.key, k.needs, k.isRepeatable = "events", FeatureExternalEvents.need(), true
	k.method, k.path = http.MethodPost, "/os-server-external-events"
	event := map[string]any{"name": "volume-extended", "server_uuid": server, "tag": volumeID}
	body := map[string]any{"events": []any{event}}
	// gophercloud has no external events.
	return c.run(ctx, k, func(client *serviceClient) error {
		var answer struct {
			Events []struct {
				Server string `json:"server_uuid"`
				Code   int    `json:"code"`
				Status string `json:"status"`
			} `json:"events"`
		}
		address := client.ServiceURL("os-server-external-events")
		err := request(ctx, client, http.MethodPost, address, body, &answer, http.StatusOK, http.StatusMultiStatus)
		// The answer to several events is good as a whole when one of them is; each has its own code.
		for _, e := range answer.Events {
			if e.Code >= http.StatusMultipleChoices {
				return eventRefusal(k, e.Server, e.Code, e.Status)
			}
		}
		return err
	})
}

// eventRefusal is the error for a part of an answer that has its own code, about the event of one
// server.
func eventRefusal(k call, server string, code int, status string) error {
	a := &answer{call: k, status: code, message: "the event has " + status}
	if wanted := k.objects[0].id; code == http.StatusNotFound {
		a.about = []string{wanted}
		if strings.EqualFold(server, wanted) {
			a.missingID = wanted
		}
	}
	return a.judge()
}

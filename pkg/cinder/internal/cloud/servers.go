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

// Server holds the fields of a Nova server that this package needs.
type Server struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// Server reads a server. Kind NotFound: the server does not exist.
func (c *Cloud) Server(ctx context.Context, id string) (Server, error) {
	call := novaCall("server_get", "reading server "+id, object{"server", id})
	return readByID(ctx, c, call, func(client *serviceClient) (*Server, error) {
		var s Server
		return &s, servers.Get(ctx, client, id).ExtractInto(&s)
	})
}

// Attach asks Nova to attach a volume to a server, which it does asynchronously. multiattach means
// that the volume can be attached to several servers, which needs FeatureMultiattach. Kinds:
// NotFound (the message names the server or the volume), AlreadyExists (attached to this server
// already), Precondition (wrong state, or attached elsewhere), Exhausted (no slot left), InProgress
// (Nova does something else with the server), Unsupported (multiattach only).
func (c *Cloud) Attach(ctx context.Context, server, volumeID string, multiattach bool) error {
	what := fmt.Sprintf("attaching volume %s to server %s", volumeID, server)
	call := novaCall("volume_attach", what, object{"server", server}, object{"volume", volumeID})
	if multiattach {
		call.needs = FeatureMultiattach.need()
	}
	return c.run(ctx, call, func(client *serviceClient) error {
		return volumeattach.Create(ctx, client, server, volumeattach.CreateOpts{VolumeID: volumeID}).Err
	})
}

// Detach asks Nova to detach a volume from a server, which it does asynchronously. Kinds:
// NotFound (not attached there, or no such server), InProgress (the server or the attachment is
// busy), Precondition (state of the volume).
func (c *Cloud) Detach(ctx context.Context, server, volumeID string) error {
	what := fmt.Sprintf("detaching volume %s from server %s", volumeID, server)
	call := novaCall("volume_detach", what, object{"server", server}, object{"volume", volumeID})
	return c.run(ctx, call, func(client *serviceClient) error {
		return volumeattach.Delete(ctx, client, server, volumeID).ExtractErr()
	})
}

// ServerAttachment reports whether Nova has an attachment of the volume to the server, also while
// it attaches or detaches the volume. It reports false if the server does not exist.
func (c *Cloud) ServerAttachment(ctx context.Context, server, volumeID string) (found bool, err error) {
	what := fmt.Sprintf("looking for volume %s on server %s", volumeID, server)
	call := novaCall("attachment_get", what, object{"server", server}, object{"volume", volumeID})
	call.key, call.idField = "volumeAttachment", "volumeId"
	err = c.run(ctx, call, func(client *serviceClient) error {
		return volumeattach.Get(ctx, client, server,
			volumeID).Err
	})
	if volume.IsKind(err, volume.KindNotFound) {
		return false, nil
	}
	return err == nil, err
}

// NotifyExtended notifies Nova that a volume of a server was extended. Cinder does the same if it
// is configured to. Kinds: Denied (the policy allows this only to services), NotFound (the server
// does not exist), Unsupported.
func (c *Cloud) NotifyExtended(ctx context.Context, server, volumeID string) error {
	what := fmt.Sprintf("notifying Nova about the extension of volume %s on server %s", volumeID, server)
	call := novaCall("notify_extended", what, object{"server", server}) // no 404 is about the volume
	call.key, call.needs, call.isRepeatable = "events", FeatureExternalEvents.need(), true
	call.method, call.path = http.MethodPost, "/os-server-external-events"
	event := map[string]any{"name": "volume-extended", "server_uuid": server, "tag": volumeID}
	body := map[string]any{"events": []any{event}}
	// gophercloud has no function for external events.
	return c.run(ctx, call, func(client *serviceClient) error {
		var answer struct {
			Events []struct {
				Server string `json:"server_uuid"`
				Code   int    `json:"code"`
				Status string `json:"status"`
			} `json:"events"`
		}
		address := client.ServiceURL("os-server-external-events")
		err := request(ctx, client, http.MethodPost, address, body, &answer, http.StatusOK, http.StatusMultiStatus)
		// The status of the answer is good if one event succeeded; each event has its own code.
		for _, e := range answer.Events {
			if e.Code >= http.StatusMultipleChoices {
				return eventRefusal(call, e.Server, e.Code, e.Status)
			}
		}
		return err
	})
}

// eventRefusal returns the error for an event of one server that Nova refused, from the code and
// status of the event.
func eventRefusal(call call, server string, code int, status string) error {
	a := &answer{call: call, status: code, message: "the event has " + status}
	if wanted := call.objects[0].id; code == http.StatusNotFound {
		a.about = []string{wanted}
		if strings.EqualFold(server, wanted) {
			a.missingID = wanted
		}
	}
	return a.toError()
}

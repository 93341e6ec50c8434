package cloud

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
)

// Message is a message of Cinder about an accepted operation that failed.
type Message struct {
	Event   string // Cinder's code of the event, such as VOLUME_VOLUME_007_003
	Detail  string // the last part of Event: the reason ("003": no backend fits)
	Text    string // the text for people
	Created time.Time
}

// Messages reads the messages about a volume, newest first.
func (c *Cloud) Messages(ctx context.Context, volumeID string) ([]Message, error) {
	call := cinderCall("message_list", "reading the messages about volume "+volumeID, object{"volume", volumeID})
	call.key, call.needs, call.prefers = "messages", FeatureMessages.need(), messageFiltersVersion
	var answer struct {
		Messages []struct {
			Event    string                          `json:"event_id"`
			Text     string                          `json:"user_message"`
			Created  gophercloud.JSONRFC3339MilliNoZ `json:"created_at"`
			Resource string                          `json:"resource_uuid"`
		} `json:"messages"`
	}
	// gophercloud has no functions for messages.
	err := c.run(ctx, call, func(client *serviceClient) error {
		address := client.ServiceURL("messages")
		if client.Microversion == messageFiltersVersion {
			address += "?" + url.Values{"resource_uuid": {volumeID}, "sort": {"created_at:desc"}}.Encode()
		}
		return request(ctx, client, http.MethodGet, address, nil, &answer, http.StatusOK)
	})
	var found []Message
	for _, m := range answer.Messages {
		if strings.EqualFold(m.Resource, volumeID) {
			detail := m.Event[strings.LastIndex(m.Event, "_")+1:]
			found = append(found, Message{Event: m.Event, Detail: detail, Text: m.Text, Created: time.Time(m.Created)})
		}
	}
	slices.SortStableFunc(found, func(a, b Message) int { return b.Created.Compare(a.Created) })
	return found, err
}

package cinder

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Details of Cinder's messages (cinder/message/message_field.py).
const (
	detailNoBackend      = "003" // the scheduler found no backend that can do it
	detailQuotaExhausted = "006"
	detailComputeFailed  = "009" // Nova could not be told, or could not do its part
	detailDriverFailed   = "010" // the driver of the storage failed to extend
)

// actionExtend stands in the events of messages about extensions.
const actionExtend = "_007_"

// clockSlack is how much older than the volume's last change the message about
// it may be: they are written one after the other, maybe by two machines.
const clockSlack = 5 * time.Second

// reason is why Cinder did not do what it had accepted.
type reason struct {
	text string // for the user; it says so if nothing could be learnt
	kind volume.Kind
}

// reasonOf reads the message that Cinder leaves when something asynchronous
// fails. v is the volume as it was left. Without a message the kind is unknown.
func (b *Backend) reasonOf(ctx context.Context, c *cloud.Cloud, v cloud.Volume, unknown volume.Kind) reason {
	return b.reasonAbout(ctx, c, v, "", unknown)
}

// reasonAbout is reasonOf for messages about one action.
func (b *Backend) reasonAbout(ctx context.Context, c *cloud.Cloud, v cloud.Volume, action string, unknown volume.Kind) reason {
	messages, err := c.Messages(ctx, v.ID)
	if err != nil {
		b.log.WarnContext(ctx, "could not read why an operation failed", "volume", v.ID, "error", err)
		return reason{text: fmt.Sprintf("Cinder's reason could not be read: %v", err), kind: unknown}
	}
	for _, m := range messages { // the newest first
		if m.Created.Before(v.UpdatedAt.Add(-clockSlack)) {
			break
		}
		if strings.Contains(m.Event, action) {
			return reason{text: fmt.Sprintf("Cinder says: %q (%s)", m.Text, m.Event), kind: kindOf(m, unknown)}
		}
	}
	return reason{text: "Cinder left no message about the reason", kind: unknown}
}

// kindOf is what a message means to the caller.
func kindOf(m cloud.Message, unknown volume.Kind) volume.Kind {
	switch m.Detail {
	case detailNoBackend, detailQuotaExhausted:
		return volume.KindOutOfRange
	case detailDriverFailed, detailComputeFailed:
		return volume.KindInternal
	}
	return unknown
}

package message

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Values of detail_id in Cinder's messages (cinder/message/message_field.py, class Detail).
const (
	detailNoBackend      = "003" // NO_BACKEND_AVAILABLE: the scheduler found no backend for the request
	detailQuotaExhausted = "006" // QUOTA_EXCEED
	detailComputeFailed  = "009" // NOTIFY_COMPUTE_SERVICE_FAILED: Nova was not told, or failed to do its part
	detailDriverFailed   = "010" // DRIVER_FAILED_EXTEND
)

// eventExtend is part of the event_id of messages about extensions (EXTEND_VOLUME).
const eventExtend = "_007_"

// maxMessageLead is how much older than the last change of an object the message about that
// change may be: Cinder writes them one after the other, maybe on two machines.
const maxMessageLead = 5 * time.Second

// Reason is why Cinder did not complete a request that it had accepted.
type Reason struct {
	Text string // for the user; it says so if Cinder gave no reason
	Kind volume.Kind
}

// Reader is what a Finder reads of a cloud.
type Reader interface {
	Messages(ctx context.Context, id string) ([]cloud.Message, error)
}

// Finder finds the message that Cinder writes when asynchronous work fails.
type Finder struct {
	Log *slog.Logger
}

// OfVolume returns the reason for the present state of a volume. unknown is the kind of a
// reason that Cinder does not give, or gives without a detail that decides the kind.
func (f Finder) OfVolume(ctx context.Context, api Reader, v cloud.Volume, unknown volume.Kind) Reason {
	return f.find(ctx, api, v.ID, v.UpdatedAt, "", unknown)
}

// OfExtension is OfVolume for messages about an extension only.
func (f Finder) OfExtension(ctx context.Context, api Reader, v cloud.Volume, unknown volume.Kind) Reason {
	return f.find(ctx, api, v.ID, v.UpdatedAt, eventExtend, unknown)
}

// OfSnapshot returns the text of Cinder's last message about a snapshot.
func (f Finder) OfSnapshot(ctx context.Context, api Reader, s cloud.Snapshot) string {
	return f.find(ctx, api, s.ID, s.CreatedAt, "", volume.KindInternal).Text
}

func (f Finder) find(
	ctx context.Context, api Reader, id string, changed time.Time, event string, unknown volume.Kind,
) Reason {
	messages, err := api.Messages(ctx, id)
	if err != nil {
		f.Log.WarnContext(ctx, "could not read why an operation failed", "volume", id, "error", err)
		return Reason{Text: fmt.Sprintf("Cinder's reason could not be read: %v", err), Kind: unknown}
	}
	for _, m := range messages { // newest first
		if m.Created.Before(changed.Add(-maxMessageLead)) {
			break
		}
		if strings.Contains(m.Event, event) {
			return Reason{Text: fmt.Sprintf("Cinder says: %q (%s)", m.Text, m.Event), Kind: kindOf(m, unknown)}
		}
	}
	return Reason{Text: "Cinder gave no reason", Kind: unknown}
}

// kindOf returns the error kind for the detail of a message.
func kindOf(m cloud.Message, unknown volume.Kind) volume.Kind {
	switch m.Detail {
	case detailNoBackend, detailQuotaExhausted:
		return volume.KindOutOfRange
	case detailDriverFailed, detailComputeFailed:
		return volume.KindInternal
	}
	return unknown
}

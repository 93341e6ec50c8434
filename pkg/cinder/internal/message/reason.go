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
	detailComputeFailed  = "009" // NOTIFY_COMPUTE_SERVICE_FAILED: Cinder could not notify Nova, or Nova failed
	detailDriverFailed   = "010" // DRIVER_FAILED_EXTEND
)

// eventExtend is part of the event_id of messages about extensions
// (cinder/message/message_field.py, class Action, EXTEND_VOLUME).
const eventExtend = "_007_"

// maxMessageLead is how much older than the last change of an object the message about that change
// may be: Cinder writes the two one after the other, possibly on two machines.
const maxMessageLead = 5 * time.Second

// Reason is why Cinder did not complete a request that it had accepted.
type Reason struct {
	Text string      // a sentence for the user, also if Cinder gave no reason
	Kind volume.Kind // of an error with this reason
}

// VolumeReason returns the reason for the present state of a volume, from the messages that Cinder
// writes when asynchronous work fails. Its kind is unknown if Cinder gave no reason, or one without
// a detail that determines the kind.
func VolumeReason(
	ctx context.Context, log *slog.Logger, api *cloud.Cloud, v cloud.Volume, unknown volume.Kind,
) Reason {
	return findReason(ctx, log, api, v.ID, v.UpdatedAt, "", unknown)
}

// ExtensionReason is VolumeReason restricted to messages about extensions.
func ExtensionReason(
	ctx context.Context, log *slog.Logger, api *cloud.Cloud, v cloud.Volume, unknown volume.Kind,
) Reason {
	return findReason(ctx, log, api, v.ID, v.UpdatedAt, eventExtend, unknown)
}

// SnapshotReason returns the text of the reason for the present state of a snapshot.
func SnapshotReason(ctx context.Context, log *slog.Logger, api *cloud.Cloud, s cloud.Snapshot) string {
	return findReason(ctx, log, api, s.ID, s.CreatedAt, "", volume.KindInternal).Text
}

func findReason(
	ctx context.Context, log *slog.Logger, api *cloud.Cloud, id string, changed time.Time, event string,
	unknown volume.Kind,
) Reason {
	messages, err := api.Messages(ctx, id)
	if err != nil {
		log.WarnContext(ctx, "cannot read Cinder's reason for a failure", "id", id, "error", err)
		return Reason{Text: fmt.Sprintf("cannot read Cinder's reason: %v", err), Kind: unknown}
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

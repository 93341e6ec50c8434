package message

import (
	"testing"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// The details are those of cinder/message/message_field.py. A user can fix OutOfRange by asking
// for less.
func TestDetailDecidesTheKind(t *testing.T) {
	t.Parallel()
	for detail, want := range map[string]volume.Kind{
		"003": volume.KindOutOfRange, // NO_BACKEND_AVAILABLE
		"006": volume.KindOutOfRange, // QUOTA_EXCEED
		"007": volume.KindDenied,     // NOT_ENOUGH_SPACE_FOR_IMAGE: the driver uses no images
		"009": volume.KindInternal,   // NOTIFY_COMPUTE_SERVICE_FAILED
		"010": volume.KindInternal,   // DRIVER_FAILED_EXTEND
		"":    volume.KindDenied,
	} {
		if got := kindOf(cloud.Message{Detail: detail}, volume.KindDenied); got != want {
			t.Errorf("detail %q has kind %s, want %s", detail, got, want)
		}
	}
}

package filesystem

import (
	"time"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// marker proves that Format began a mkfs on a volume that held no user's data. It is a file
// on the node, outside of the volume. It exists from before mkfs starts until the finished
// filesystem was read back, or until mkfs is known to have written nothing.
type marker struct {
	Type       Type        `json:"type"`
	DeviceSize volume.Size `json:"deviceBytes"`
	Begun      time.Time   `json:"begun"`
}

// writeMarker writes the marker, unless path is empty. It returns once the marker would
// survive a power cut.
func writeMarker(path string, m marker) error {
	if path == "" {
		return nil
	}
	return markerError(statefile.Write(path, m))
}

// RemoveMarker removes the marker of a volume (FormatRequest.Marker), and returns once the
// removal would survive a power cut. Call it when the volume is deleted or used for
// something else. It succeeds without a marker, and for the empty path. The error is of
// kind Internal.
func RemoveMarker(path string) error { return markerError(statefile.Remove(path)) }

// markerError adds a message to an error of the marker file.
func markerError(err error) error {
	if err == nil {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "cannot use the marker of an unfinished mkfs: %w", err).
		WithRemedy("check that the state directory of the driver on this node can be read and written")
}

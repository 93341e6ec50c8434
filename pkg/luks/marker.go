package luks

import (
	"time"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// marker proves that Format made a header on a blank device. It is a file on the node, so no
// content of the volume can forge it. It exists from just before the format until the first
// use of the volume (RemoveMarker).
type marker struct {
	// UUID is the UUID of the header. Format chooses it beforehand, so that an unfinished
	// header of its own differs from a damaged header of another origin.
	UUID       string      `json:"uuid"`
	DeviceSize volume.Size `json:"deviceBytes"`
	// Zero says that all samples of the device after DataOffset were zero before the format.
	Zero  bool      `json:"zero"`
	Begun time.Time `json:"begun"`
}

// isValidFor reports whether the marker is valid for a device of this size now.
func (m marker) isValidFor(size volume.Size, now time.Time) bool {
	return volume.IsUUID(m.UUID) && m.DeviceSize > 0 && m.DeviceSize <= size && statefile.IsFresh(m.Begun, now)
}

// readMarker returns the marker at path or, if there is none, the zero marker, which is not
// valid.
func readMarker(path string) (marker, error) {
	m, _, err := statefile.ReadMarker[marker](path)
	return m, markerError(err)
}

func writeMarker(path string, m marker) error { return markerError(statefile.Write(path, m)) }

// RemoveMarker removes the marker of a volume (FormatRequest.Marker). The caller calls it at
// the first use of the volume, before it reports success: after the filesystem was made and
// read back, or before the mapping is published as a raw device. It succeeds for a path
// without a marker. The error is of kind Internal.
func RemoveMarker(path string) error { return markerError(statefile.Remove(path)) }

func markerError(err error) error {
	if err == nil {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "cannot use the marker of a LUKS format: %w", err).
		WithRemedy("check that the state directory of the driver on this node can be read and written")
}

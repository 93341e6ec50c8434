package filesystem

import (
	"time"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// marker proves that a mkfs of ours was begun on a volume that was blank. It
// lies on the node, outside of the volume, from before mkfs starts until the
// finished filesystem was read back, or mkfs is known to have written nothing.
type marker struct {
	Type   Type        `json:"type"`
	Device volume.Size `json:"deviceBytes"`
	Begun  time.Time   `json:"begun"`
}

// readMarker returns the marker at path. It reports false if there is none, or no path.
func readMarker(path string) (m marker, exists bool, err error) {
	if path == "" {
		return marker{}, false, nil
	}
	return statefile.ReadMarker[marker](path)
}

// writeMarker puts the marker in place so that it survives a power cut before
// the first byte of mkfs is written.
func writeMarker(path string, m marker) error {
	if path == "" {
		return nil
	}
	return statefile.Write(path, m)
}

// RemoveMarker removes the marker of a volume (FormatRequest.Marker), so that
// it outlives neither the volume nor its use as something else, and returns
// when that would survive a power cut. A path without a marker, and no path,
// are a success. The error is of kind Internal.
func RemoveMarker(path string) error {
	if path == "" {
		return nil
	}
	return markerError(statefile.Remove(path))
}

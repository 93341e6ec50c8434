package filesystem

import (
	"errors"
	"time"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// markerTrust is how long a marker proves anything. The tries of a pod that
// waits for its volume come within minutes; what lies on the device a day
// later may be somebody's data, written by other means.
const markerTrust = 24 * time.Hour

// marker proves that a mkfs of ours was begun on a volume that was blank. It
// lies on the node, outside of the volume, from before mkfs starts until the
// finished filesystem was read back, or mkfs is known to have written nothing.
type marker struct {
	Type   Type        `json:"type"`
	Device volume.Size `json:"deviceBytes"`
	Begun  time.Time   `json:"begun"`
}

// fresh tells whether the marker still proves anything. A clock that was set
// is no reason to trust it longer.
func (m marker) fresh(now time.Time) bool { return now.Sub(m.Begun).Abs() < markerTrust }

// readMarker returns the marker at path; exists is false when there is none.
// One that cannot be understood is as old as can be.
func readMarker(path string) (m marker, exists bool, err error) {
	if path == "" {
		return marker{}, false, nil
	}
	exists, err = statefile.Read(path, &m)
	if errors.Is(err, statefile.ErrDamaged) {
		return marker{}, true, nil
	}
	return m, exists, err
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

package statefile

import (
	"errors"
	"time"
)

// MaxMarkerAge is how long a marker is valid. A marker is a state file that proves that
// a format was begun on this node, on a volume that was blank. The retries of a pod that
// waits for its volume come within minutes; a day later the volume may hold a user's
// data.
const MaxMarkerAge = 24 * time.Hour

// IsFresh reports whether a marker that was written at begun is still valid at now. A
// marker from the future is valid only within MaxMarkerAge too, because a clock that was
// set back must not keep it valid for longer.
func IsFresh(begun, now time.Time) bool { return now.Sub(begun).Abs() < MaxMarkerAge }

// ReadMarker returns the marker at path. It reports false if there is none. A damaged
// marker is returned as the zero value, for which IsFresh reports false.
func ReadMarker[T any](path string) (marker T, exists bool, err error) {
	exists, err = Read(path, &marker)
	if errors.Is(err, ErrDamaged) {
		var zero T
		return zero, true, nil
	}
	return marker, exists, err
}

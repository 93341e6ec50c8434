package statefile

import (
	"errors"
	"time"
)

// MaxMarkerAge is how long a marker proves anything. A marker is a state file that
// proves that a step on a volume was begun here, on a volume that was blank. The
// retries of a pod that waits for its volume come within minutes; the content of the
// volume a day later may be a user's data.
const MaxMarkerAge = 24 * time.Hour

// IsFresh reports whether a marker that was written at begun still proves anything
// at now. A clock that was set back does not make a marker fresh for longer.
func IsFresh(begun, now time.Time) bool { return now.Sub(begun).Abs() < MaxMarkerAge }

// ReadMarker returns the marker at path. It reports false if there is none. A damaged
// marker reads as the zero value, which proves nothing.
func ReadMarker[T any](path string) (marker T, exists bool, err error) {
	exists, err = Read(path, &marker)
	if errors.Is(err, ErrDamaged) {
		var zero T
		return zero, true, nil
	}
	return marker, exists, err
}

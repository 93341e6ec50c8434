package luks

import (
	"errors"
	"time"

	"github.com/growvol/growvol/pkg/statefile"
	"github.com/growvol/growvol/pkg/volume"
)

// markerTrust is how long a marker proves anything. The tries of a pod that
// waits for its volume come within minutes.
const markerTrust = 24 * time.Hour

// marker proves that a header was made here on a device that was blank. It is
// a file on the node, outside of the volume, from before the format until the
// volume is put to use (RemoveMarker).
type marker struct {
	// UUID is that of the header: chosen before the format, so that a half-made
	// header can be told from somebody else's damaged one.
	UUID   string      `json:"uuid"`
	Device volume.Size `json:"deviceBytes"`
	// Zero says that the device was all zero, where it was sampled, behind the
	// place of the key slots.
	Zero  bool      `json:"zero"`
	Begun time.Time `json:"begun"`
}

// proves reports whether the marker still proves anything about a device of
// this size. A clock that was set is no reason to trust it longer.
func (m marker) proves(size volume.Size, now time.Time) bool {
	return volume.IsUUID(m.UUID) && m.Device > 0 && m.Device <= size && now.Sub(m.Begun).Abs() < markerTrust
}

// readMarker returns the marker at path. One that cannot be understood proves
// nothing.
func readMarker(path string) (m marker, err error) {
	if _, err := statefile.Read(path, &m); err != nil {
		if errors.Is(err, statefile.ErrDamaged) {
			return marker{}, nil
		}
		return marker{}, markerError(err)
	}
	return m, nil
}

func writeMarker(path string, m marker) error { return markerError(statefile.Write(path, m)) }

// RemoveMarker removes the marker of a volume (FormatRequest.Marker). Call it
// once the volume has been put to use, before the caller's success is
// reported: its filesystem was made and read back, or the mapping is handed
// out as a raw device. A path without a marker is a success. The error is of
// kind Internal.
func RemoveMarker(path string) error { return markerError(statefile.Remove(path)) }

func markerError(err error) error {
	if err == nil {
		return nil
	}
	return volume.Errorf(volume.KindInternal, "keep the record of a LUKS format: %w", err).
		WithRemedy("check the state directory of the driver on this node")
}

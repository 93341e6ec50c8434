package blockdev

import (
	"path/filepath"
	"strconv"

	"github.com/growvol/growvol/pkg/volume"
)

// DiscardLimit returns how many bytes one request can discard on a whole disk or a mapping; zero:
// the device does not discard, so that the space of deleted data stays allocated in the storage
// below. It reads sysfs only: queue/discard_max_bytes
// (Linux, Documentation/ABI/stable/sysfs-block).
// Kind Internal.
func (s *System) DiscardLimit(d Device) (volume.Size, error) {
	path := filepath.Join(s.sysfsDir(d), "queue", "discard_max_bytes")
	text, err := s.readAttribute(path)
	if err != nil {
		return 0, volume.Errorf(volume.KindInternal, "cannot read whether %s discards: %w", d, err)
	}
	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil || limit < 0 {
		return 0, volume.Errorf(volume.KindInternal, "cannot read whether %s discards: %s contains %q", d, path, text)
	}
	return volume.Size(limit), nil
}

package node

import (
	"path/filepath"

	"github.com/growvol/growvol/pkg/volume"
)

// invalid is the answer to a malformed request.
func invalid(format string, args ...any) error {
	return volume.Errorf(volume.KindInvalid, format, args...)
}

// requireID refuses requests without a volume id.
func requireID(id string) error {
	if id == "" {
		return invalid("volume_id is missing from the request")
	}
	return nil
}

// requirePath refuses an empty or relative path: whatever it would resolve to
// depends on where the plugin was started.
func requirePath(field, path string) error {
	switch {
	case path == "":
		return invalid("%s is missing from the request", field)
	case !filepath.IsAbs(path):
		return invalid("%s %q is not an absolute path", field, path)
	}
	return nil
}

package node

import (
	"path/filepath"

	"github.com/growvol/growvol/pkg/volume"
)

// invalidf is the answer to a malformed request.
func invalidf(format string, args ...any) error {
	return volume.Errorf(volume.KindInvalid, format, args...)
}

// checkID refuses requests without a volume id.
func checkID(id string) error {
	if id == "" {
		return invalidf("volume_id is missing from the request")
	}
	return nil
}

// checkPath refuses an empty or relative path: whatever it would resolve to
// depends on where the plugin was started.
func checkPath(field, path string) error {
	switch {
	case path == "":
		return invalidf("%s is missing from the request", field)
	case !filepath.IsAbs(path):
		return invalidf("%s %q is not an absolute path", field, path)
	}
	return nil
}

package node

import (
	"path/filepath"

	"github.com/growvol/growvol/pkg/volume"
)

// invalidf returns the error for a malformed request; this file has the checks that all RPCs share.
func invalidf(format string, args ...any) error {
	return volume.Errorf(volume.KindInvalid, format, args...)
}

// checkID returns an error when the request has no volume id.
func checkID(id string) error {
	if id == "" {
		return invalidf("volume_id is missing from the request")
	}
	return nil
}

// checkPath returns an error for an empty path and for a relative one, whose meaning depends on the
// plugin's working directory.
func checkPath(field, path string) error {
	switch {
	case path == "":
		return invalidf("%s is missing from the request", field)
	case !filepath.IsAbs(path):
		return invalidf("%s %q is not an absolute path", field, path)
	}
	return nil
}

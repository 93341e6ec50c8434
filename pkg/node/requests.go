package node

import (
	"path/filepath"

	"github.com/growvol/growvol/pkg/volume"
)

// checkRequired returns an error of kind Invalid for an empty value; field is REQUIRED in the CSI
// specification. This file has the checks of requests that all RPCs share.
func checkRequired(field, value string) error {
	if value == "" {
		return volume.Errorf(volume.KindInvalid, "%s is missing from the request", field)
	}
	return nil
}

// checkID returns an error when the request has no volume id.
func checkID(id string) error { return checkRequired("volume_id", id) }

// checkPath returns an error for an empty path and for a relative one, whose meaning depends on the
// plugin's working directory.
func checkPath(field, path string) error {
	if path != "" && !filepath.IsAbs(path) {
		return volume.Errorf(volume.KindInvalid, "%s %q is not an absolute path", field, path)
	}
	return checkRequired(field, path)
}

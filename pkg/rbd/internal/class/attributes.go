package class

import (
	"maps"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// This file holds the parameters of VolumeAttributesClasses: limits of the I/O.

// ParseAttributes checks the parameters of a VolumeAttributesClass and returns those to keep with
// the volume; nil: none. Kind Invalid.
func ParseAttributes(parameters map[string]string) (map[string]string, error) {
	var attributes map[string]string
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if !slices.Contains(volume.IOLimitKeys(), key) {
			return nil, volume.Errorf(volume.KindInvalid, "the VolumeAttributesClass has the unknown parameter %q; known are %s",
				key, strings.Join(volume.IOLimitKeys(), ", ")).
				WithRemedy("remove the parameter " + key + " from the VolumeAttributesClass")
		}
		if parameters[key] == "" {
			continue
		}
		if attributes == nil {
			attributes = make(map[string]string)
		}
		attributes[key] = parameters[key]
	}
	_, err := volume.ParseIOLimits(attributes)
	return attributes, err
}

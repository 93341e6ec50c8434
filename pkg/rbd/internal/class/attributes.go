package class

import (
	"maps"
	"slices"

	"github.com/growvol/growvol/pkg/volume"
)

// ParseAttributes checks the parameters of a VolumeAttributesClass and returns those to keep with
// the volume. Kind Invalid.
func ParseAttributes(parameters map[string]string) (map[string]string, error) {
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		return nil, volume.Errorf(volume.KindInvalid, "the VolumeAttributesClass has the unknown parameter %q", key).
			WithRemedy("remove the parameter " + key + " from the VolumeAttributesClass")
	}
	return nil, nil
}

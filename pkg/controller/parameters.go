package controller

import (
	"maps"

	"github.com/growvol/growvol/pkg/volume"
)

// The values of the parameter volume.EncryptedKey.
const (
	isTrue  = "true"
	isFalse = "false"
)

// splitParameters separates the StorageClass parameter that is the same for all
// backends from those that the backend reads. Kind Invalid: its value is
// neither "true" nor "false".
func splitParameters(class map[string]string) (rest map[string]string, encrypted bool, err error) {
	value, found := class[volume.EncryptedKey]
	if !found {
		return class, false, nil
	}
	if value != isTrue && value != isFalse {
		return nil, false, volume.Errorf(volume.Invalid, "the parameter %s of the StorageClass is %q, which is neither %q nor %q",
			volume.EncryptedKey, value, isTrue, isFalse).
			WithRemedy("correct the StorageClass: " + volume.EncryptedKey + ": \"" + isTrue + "\"")
	}
	rest = maps.Clone(class)
	delete(rest, volume.EncryptedKey)
	return rest, value == isTrue, nil
}

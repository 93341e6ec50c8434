package class

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/growvol/growvol/pkg/cinder/internal/metadata"
	"github.com/growvol/growvol/pkg/volume"
)

// parseMetadata parses the value of ParamMetadata: a JSON object of strings, or nothing. It returns
// an error if text is something else, or has a key or value that Cinder refuses, or a key that this
// driver or Cinder sets. The error does not contain values, which may be secret.
func parseMetadata(text string) (map[string]string, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var object map[string]*string
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return nil, invalidMetadata("is not a JSON object of strings")
	}
	parsed := make(map[string]string, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		value := object[key]
		switch {
		case value == nil:
			return nil, invalidMetadata("has no string for the key " + strconv.Quote(key))
		case key == "" || strings.Trim(key, metadataKeyCharacters) != "" || len(key) > maxMetadataLength:
			return nil, invalidMetadata("has the key " + strconv.Quote(key) +
				", but Cinder allows 1 to 255 letters, digits, blanks, and - _ : . /")
		case utf8.RuneCountInString(*value) > maxMetadataLength:
			return nil, invalidMetadata("has a value of more than 255 characters for the key " + strconv.Quote(key))
		case metadata.IsReserved(key):
			return nil, invalidMetadata("has the key " + strconv.Quote(key) + ", which this driver or Cinder sets")
		}
		parsed[key] = *value
	}
	return parsed, nil
}

// What Cinder allows in metadata: the characters of a key, and the length of a key or value.
const (
	metadataKeyCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:. /-"
	maxMetadataLength     = 255
)

func invalidMetadata(problem string) error {
	return volume.Errorf(volume.KindInvalid, "parameter %s %s", ParamMetadata, problem).
		WithRemedy(`correct the parameter in the class: ` + ParamMetadata + `: '{"key": "value"}'`)
}

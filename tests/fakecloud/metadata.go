package fakecloud

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkMetadata refuses metadata that the schemas of Cinder do not allow.
func (o objectReader) checkMetadata() *reply {
	in, _ := o.object["metadata"].(object)
	var shown []string
	odd := ""
	for _, key := range slices.Sorted(maps.Keys(in)) {
		value, isText := in[key].(string)
		switch {
		case !regexp.MustCompile(`^[a-zA-Z0-9-_:. /]{1,255}$`).MatchString(key):
			odd = key
		case !isText && in[key] == nil:
			return faultf(http.StatusBadRequest, "Invalid input for field/attribute %s. Value: None. None is not of type 'string'", key)
		case !isText:
			return faultf(http.StatusBadRequest, "Invalid input for field/attribute %s. Value: %v. %[2]v is not of type 'string'", key, in[key])
		case utf8.RuneCountInString(value) > 255:
			return faultf(http.StatusBadRequest, "Invalid input for field/attribute %s. Value: %s. '%[2]s' is too long", key, value)
		}
		shown = append(shown, fmt.Sprintf("'%s': '%v'", key, in[key]))
	}
	if odd == "" {
		return nil
	}
	return faultf(http.StatusBadRequest, "Invalid input for field/attribute metadata. Value: {%s}. '%s' does not match any of the regexes: '^[a-zA-Z0-9-_:. /]{1,255}$'", strings.Join(shown, ", "), odd)
}

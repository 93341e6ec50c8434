package fakecloud

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// objectReader reads the fields of a JSON object that a client has sent. Its check methods refuse
// values as the JSON schemas of Cinder do.
type objectReader struct{ object object }

// text returns the string with this key, or "".
func (o objectReader) text(key string) string {
	s, _ := o.object[key].(string)
	return s
}

// number returns the whole number with this key. Like Cinder it accepts a number in a string.
func (o objectReader) number(key string) (n int, given, valid bool) {
	switch v := o.object[key].(type) {
	case nil:
		return 0, false, true
	case json.Number:
		n, err := strconv.Atoi(v.String())
		return n, true, err == nil
	case string:
		n, err := strconv.Atoi(v)
		return n, true, err == nil
	}
	return 0, true, false
}

// checkPositive refuses a value that is not a whole number of at least 1.
func (o objectReader) checkPositive(key string) *reply {
	n, given, valid := o.number(key)
	switch {
	case !given:
		return nil
	case !valid:
		return apiErrorf(http.StatusBadRequest,
			"Invalid input for field/attribute %s. Value: %v. '%[2]v' does not match '^[0-9]+$'", key, o.object[key])
	case n < 1:
		return apiErrorf(http.StatusBadRequest,
			"Invalid input for field/attribute %s. Value: %d. %[2]d is less than the minimum of 1", key, n)
	}
	return nil
}

// metadata returns the metadata in the object.
func (o objectReader) metadata() map[string]string {
	in, _ := o.object["metadata"].(object)
	out := make(map[string]string, len(in))
	for k, v := range in {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

// checkMetadata refuses metadata whose keys or values the schemas do not allow.
func (o objectReader) checkMetadata() *reply {
	in, _ := o.object["metadata"].(object)
	var shown []string
	badKey := ""
	for _, key := range slices.Sorted(maps.Keys(in)) {
		value, isText := in[key].(string)
		switch {
		case !regexp.MustCompile(`^[a-zA-Z0-9-_:. /]{1,255}$`).MatchString(key):
			badKey = key
		case !isText && in[key] == nil:
			return apiErrorf(http.StatusBadRequest,
				"Invalid input for field/attribute %s. Value: None. None is not of type 'string'", key)
		case !isText:
			return apiErrorf(http.StatusBadRequest,
				"Invalid input for field/attribute %s. Value: %v. %[2]v is not of type 'string'", key, in[key])
		case utf8.RuneCountInString(value) > 255:
			return apiErrorf(http.StatusBadRequest, "Invalid input for field/attribute %s. Value: %s. '%[2]s' is too long", key,
				value)
		}
		shown = append(shown, fmt.Sprintf("'%s': '%v'", key, in[key]))
	}
	if badKey == "" {
		return nil
	}
	return apiErrorf(http.StatusBadRequest,
		"Invalid input for field/attribute metadata. Value: {%s}. '%s' does not match any of the regexes: "+
			"'^[a-zA-Z0-9-_:. /]{1,255}$'", strings.Join(shown, ", "), badKey)
}

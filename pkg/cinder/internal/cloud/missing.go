package cloud

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
)

// readMissing sets the fields of a that say what a 404 or 410 is about. The status alone proves
// nothing, because any server on the way can send it. So an object counts as missing only if a
// fault of Cinder or Nova names it.
func (a *answer) readMissing(body []byte) {
	if a.status != http.StatusNotFound && a.status != http.StatusGone {
		return
	}
	for _, o := range a.objects {
		a.about = append(a.about, o.id)
	}
	a.isUnknownPath = isRouterFault(body)
	message, ok := ownFault(a.status, body)
	if !ok {
		return
	}
	if i := slices.IndexFunc(a.about, func(id string) bool { return hasWord(message, id) }); i >= 0 {
		a.missingID = a.about[i]
		return
	}
	a.isTypeMissing = a.volumeType != "" &&
		(hasWord(message, a.volumeType) || strings.Contains(strings.ToLower(message), "volume type"))
}

// ownFault returns the message of a 404 or 410 in the form that Cinder and Nova have for it,
// {"itemNotFound": {"code": 404, "message": "…"}}. It reports false for any other body: that of
// Keystone or another service, of a proxy, and of the router in front of Cinder's and Nova's API.
func ownFault(status int, body []byte) (message string, ok bool) {
	name := map[int]string{http.StatusNotFound: "itemNotFound", http.StatusGone: "computeFault"}[status]
	var faults map[string]struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &faults) != nil || len(faults) != 1 || faults[name].Code != status {
		return "", false
	}
	return faults[name].Message, true
}

// isRouterFault reports whether a body is the answer of the router in front of an OpenStack API to
// a path that the API does not have.
func isRouterFault(body []byte) bool {
	var fault struct {
		Code  string `json:"code"`
		Title string `json:"title"`
	}
	return json.Unmarshal(body, &fault) == nil && fault.Code == "404 Not Found" && fault.Title == "Not Found"
}

// hasWord reports whether a text has a word, such as an id, in upper or lower case: services can
// write ids in lower case. A part of a longer id does not count.
func hasWord(text, word string) bool {
	words := strings.FieldsFunc(text, func(r rune) bool { return !isIDRune(r) })
	return word != "" && slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, word) })
}

// isUnknownPath reports whether err is the answer of an API's router, which does not know the
// path.
func isUnknownPath(err error) bool {
	var a *answer
	return errors.As(err, &a) && a.isUnknownPath
}

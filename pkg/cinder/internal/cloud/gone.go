package cloud

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/growvol/growvol/pkg/volume"
)

// ownFault returns the message of a 404 or 410 in the form that Cinder and Nova
// have for it, {"itemNotFound": {"code": 404, "message": "…"}}. It reports
// false for any other body: that of Keystone or another service, of a proxy,
// and of the router in front of Cinder's and Nova's API.
func ownFault(status int, body []byte) (message string, ok bool) {
	name := map[int]string{http.StatusNotFound: "itemNotFound", http.StatusGone: "computeFault"}[status]
	var faults map[string]json.RawMessage
	if json.Unmarshal(body, &faults) != nil || len(faults) != 1 || faults[name] == nil {
		return "", false
	}
	var fault struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if json.Unmarshal(faults[name], &fault) != nil || fault.Code != status {
		return "", false
	}
	return fault.Message, true
}

// isRouterFault reports whether a body is what the router in front of an
// OpenStack API answers to a path that the API does not have.
func isRouterFault(body []byte) bool {
	var fault struct {
		Code  string `json:"code"`
		Title string `json:"title"`
	}
	return json.Unmarshal(body, &fault) == nil && fault.Code == "404 Not Found" && fault.Title == "Not Found"
}

// names reports whether a text has a word, such as an id, in any case: services
// may write ids in lower case. A part of a longer id is not the word.
func names(text, word string) bool {
	if word == "" {
		return false
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return !isIDRune(r) })
	return slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, word) })
}

// isIDRune reports whether ids of OpenStack may contain the character.
func isIDRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

// readMissing notes what a 404 or 410 says that it did not find.
func (a *answer) readMissing(k call, body []byte) {
	if a.status != http.StatusNotFound && a.status != http.StatusGone {
		return
	}
	a.about = slices.DeleteFunc(slices.Clone(k.objects), func(id string) bool { return id == "" })
	a.noRoute = isRouterFault(body)
	message, ok := ownFault(a.status, body)
	if !ok {
		return
	}
	if i := slices.IndexFunc(a.about, func(id string) bool { return names(message, id) }); i >= 0 {
		a.missing = a.about[i]
		return
	}
	a.noType = k.volType != "" && (names(message, k.volType) || strings.Contains(strings.ToLower(message), "volume type"))
}

// isNoRoute reports whether err is the answer of an API's router, which does
// not know the path.
func isNoRoute(err error) bool {
	var a *answer
	return errors.As(err, &a) && a.noRoute
}

// stale turns the refusal of a marker into kind Stale.
func stale(err error, marker string) error {
	refused := volume.IsKind(err, volume.KindNotFound) ||
		StatusCode(err) == http.StatusBadRequest && strings.Contains(strings.ToLower(err.Error()), "marker")
	if marker != "" && refused {
		return volume.Errorf(volume.KindStale, "the listing cannot go on after %s, which is gone: %w", marker, err)
	}
	return err
}

// describes checks that an answer is about the object that it was asked about.
// Kind Unavailable: it is not.
func describes(k call, got, id string) error {
	if strings.EqualFold(got, id) {
		return nil
	}
	return volume.Errorf(volume.KindUnavailable, "%s: %s answered with the object %q", k.what, k.service, got).WithRemedy(remedyEndpoint)
}

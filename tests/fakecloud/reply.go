package fakecloud

import (
	"fmt"
	"net/http"
)

const jsonType = "application/json"

// object is a JSON object.
type object = map[string]any

// reply is an answer before it is put on the wire.
type reply struct {
	status int
	body   any // marshaled as JSON; nil: no body
	header map[string]string
}

func answer(status int, body any) *reply { return &reply{status: status, body: body} }

// fault is an error in the shape of Cinder and Nova.
func fault(status int, message string) *reply {
	body := object{"code": status, "message": message}
	r := &reply{status: status, body: object{faultName(status): body}}
	return r
}

func faultf(status int, format string, args ...any) *reply {
	return fault(status, fmt.Sprintf(format, args...))
}

func faultName(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "badRequest"
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusNotFound:
		return "itemNotFound"
	case http.StatusMethodNotAllowed:
		return "badMethod"
	case http.StatusConflict:
		return "conflictingRequest"
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return "overLimit"
	case http.StatusUnsupportedMediaType:
		return "badMediaType"
	case http.StatusNotImplemented:
		return "notImplemented"
	case http.StatusServiceUnavailable:
		return "serviceUnavailable"
	}
	return "computeFault"
}

// overLimit is a 413 or 429; retryAfter may be empty, then neither header nor
// key is there.
func overLimit(status int, message, retryAfter string) *reply {
	body := object{"code": status, "message": message}
	r := &reply{status: status, body: object{faultName(status): body}}
	if retryAfter != "" {
		body["retryAfter"] = retryAfter
		r.header = map[string]string{"Retry-After": retryAfter}
	}
	return r
}

// overQuota is how Cinder refuses for quota: 413 with "Retry-After: 0".
func overQuota(exception, format string, args ...any) *reply {
	return overLimit(http.StatusRequestEntityTooLarge, exception+": "+fmt.Sprintf(format, args...), "0")
}

// nowhere is the answer to a path that no service knows.
func nowhere() *reply {
	return answer(http.StatusNotFound, object{"code": "404 Not Found", "title": "Not Found", "message": "The resource could not be found.<br /><br />\n\n\n"})
}

// unauthorized is the 401 of Keystone and of the middleware before the other
// services.
func unauthorized(uri string) *reply {
	r := answer(http.StatusUnauthorized, object{"error": object{
		"code": http.StatusUnauthorized, "title": "Unauthorized", "message": "The request you have made requires authentication.",
	}})
	r.header = map[string]string{"WWW-Authenticate": fmt.Sprintf("Keystone uri=%q", uri)}
	return r
}

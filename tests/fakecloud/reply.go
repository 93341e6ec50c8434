package fakecloud

import (
	"fmt"
	"net/http"
)

// jsonType is the content type of every answer that the services write.
const jsonType = "application/json"

// object is a JSON object.
type object = map[string]any

// reply is an answer before the cloud sends it.
type reply struct {
	status int
	body   any // marshaled as JSON; nil: no body
	header map[string]string
}

func newReply(status int, body any) *reply { return &reply{status: status, body: body} }

// apiError returns an error in the format of Cinder and Nova.
func apiError(status int, message string) *reply {
	return overLimitError(status, message, "")
}

func apiErrorf(status int, format string, args ...any) *reply {
	return apiError(status, fmt.Sprintf(format, args...))
}

// apiErrorName returns the key of an error of this status in the body.
func apiErrorName(status int) string {
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

// overLimitError returns a 413 or 429 with retryAfter as header and in the body; neither is there
// if retryAfter is empty.
func overLimitError(status int, message, retryAfter string) *reply {
	body := object{"code": status, "message": message}
	r := &reply{status: status, body: object{apiErrorName(status): body}}
	if retryAfter != "" {
		body["retryAfter"] = retryAfter
		r.header = map[string]string{"Retry-After": retryAfter}
	}
	return r
}

// overQuotaError returns the error of Cinder for an exceeded quota: 413 with "Retry-After: 0".
func overQuotaError(exception, format string, args ...any) *reply {
	return overLimitError(http.StatusRequestEntityTooLarge, exception+": "+fmt.Sprintf(format, args...), "0")
}

// unknownPathError returns the answer to a path that no service knows.
func unknownPathError() *reply {
	return newReply(http.StatusNotFound, object{
		"code": "404 Not Found", "title": "Not Found", "message": "The resource could not be found.<br /><br />\n\n\n",
	})
}

// unauthorizedError returns the 401 of Keystone and of the middleware in front of the other
// services. uri is the URL of Keystone.
func unauthorizedError(uri string) *reply {
	r := newReply(http.StatusUnauthorized, object{"error": object{
		"code": http.StatusUnauthorized, "title": "Unauthorized",
		"message": "The request you have made requires authentication.",
	}})
	r.header = map[string]string{"WWW-Authenticate": fmt.Sprintf("Keystone uri=%q", uri)}
	return r
}

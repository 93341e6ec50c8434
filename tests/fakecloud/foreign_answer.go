package fakecloud

import (
	"net/http"
	"regexp"
	"strings"
)

// foreignPage is an answer that the requested service did not write.
type foreignPage struct {
	contentType, body string
}

// ForeignAnswer answers like another server between the client and the cloud. It executes nothing
// and sends neither a request ID nor other headers of OpenStack. {id} in the body stands for the
// last UUID in the path of the request.
func ForeignAnswer(status int, contentType, body string) Fault {
	return func(s *faultPlan) { s.status, s.foreign = status, &foreignPage{contentType, body} }
}

// ForeignNotFoundAnswers returns answers to a request that reached the wrong server, by the name of
// the server. Each is a 404 that says nothing about the requested object.
func ForeignNotFoundAnswers() map[string]Fault {
	const (
		html = "text/html; charset=utf-8"
		text = "The requested URL was not found on the server. " +
			"If you entered the URL manually please check your spelling and try again."
		otherID = "99999999-9999-4999-8999-999999999999"
	)
	json := func(body string) foreignPage { return foreignPage{jsonType, body} }
	answers := map[string]foreignPage{
		"Keystone": json(`{"error":{"code":404,"message":"The resource could not be found.","title":"Not Found"}}`),
		"Keystone about the id": json(
			`{"error":{"code":404,"message":"Could not find project: {id}.","title":"Not Found"}}`),
		"Keystone's framework": {html, "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n" +
			"<h1>Not Found</h1>\n<p>" + text + "</p>\n"},
		"Keystone's framework as text": {"text/plain", "404 Not Found: " + text + " {id}"},
		"nginx": {"text/html", "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n" +
			"<center><h1>404 Not Found</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"},
		"an empty answer": {"", ""},
		"the router of an API": json(`{"message": "The resource could not be found.<br /><br />\n\n\n", ` +
			`"code": "404 Not Found", "title": "Not Found"}`),
		"an API without the version": json(
			`{"itemNotFound": {"code": 404, "message": "The resource could not be found."}}`),
		"placement": json(`{"errors": [{"status": 404, "title": "Not Found", ` +
			`"detail": "No resource provider with uuid {id} found.", "request_id": "req-1"}]}`),
		"Neutron": json(
			`{"NeutronError": {"type": "PortNotFound", "message": "Port {id} could not be found.", "detail": ""}}`),
		"Glance": {html, "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n" +
			"  <h1>404 Not Found</h1>\n  Failed to find image {id}<br /><br />\n </body>\n</html>"},
		"the service about another volume": json(
			`{"itemNotFound": {"code": 404, "message": "Volume ` + otherID + ` could not be found."}}`),
		"the service about a longer id": json(
			`{"itemNotFound": {"code": 404, "message": "Volume {id}0 could not be found."}}`),
		"Nova about another server": json(
			`{"itemNotFound": {"code": 404, "message": "Instance ` + otherID + ` could not be found."}}`),
		"an error with another code": json(
			`{"itemNotFound": {"code": 400, "message": "Volume {id} could not be found."}}`),
		"an error with another name": json(
			`{"notFound": {"code": 404, "message": "Volume {id} could not be found."}}`),
		"an API gateway": json(
			`{"error_msg":"The API does not exist or has not been published in the environment",` +
				`"error_code":"APIGW.0101","request_id":"{id}"}`),
		"an error beside another element": json(
			`{"itemNotFound": {"code": 404, "message": "Volume {id} could not be found."}, "error": {}}`),
	}
	faults := make(map[string]Fault, len(answers))
	for name, a := range answers {
		faults[name] = ForeignAnswer(http.StatusNotFound, a.contentType, a.body)
	}
	return faults
}

// send writes the answer.
func (fp foreignPage) send(w http.ResponseWriter, path string, status int) {
	body := strings.ReplaceAll(fp.body, "{id}", lastID(path))
	if fp.contentType != "" {
		w.Header().Set("Content-Type", fp.contentType)
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// lastID returns the last UUID of a path, or "" if the path has none.
func lastID(path string) string {
	ids := regexp.MustCompile(`(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).FindAllString(path, -1)
	if len(ids) == 0 {
		return ""
	}
	return ids[len(ids)-1]
}

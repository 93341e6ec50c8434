package fakecloud

import (
	"net/http"
	"regexp"
	"strings"
)

// foreignPage is an answer that the asked service did not write.
type foreignPage struct {
	contentType, body string
}

// Foreign answers as another server on the way does, without executing
// anything, without a request id, and without the headers of OpenStack. {id} in
// the body stands for the last id in the path of the request.
func Foreign(status int, contentType, body string) Fault {
	return func(s *script) { s.status, s.foreign = status, &foreignPage{contentType, body} }
}

// ForeignNotFound returns what a misled request is answered, by names: each is
// a 404 that says nothing about the object of the request.
func ForeignNotFound() map[string]Fault {
	const (
		html = "text/html; charset=utf-8"
		text = "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again."
	)
	answers := map[string]foreignPage{
		"Keystone":                       {jsonType, `{"error":{"code":404,"message":"The resource could not be found.","title":"Not Found"}}`},
		"Keystone about the id":          {jsonType, `{"error":{"code":404,"message":"Could not find project: {id}.","title":"Not Found"}}`},
		"Keystone's framework":           {html, "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n<p>" + text + "</p>\n"},
		"Keystone's framework as text":   {"text/plain", "404 Not Found: " + text + " {id}"},
		"nginx":                          {"text/html", "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"},
		"nothing":                        {"", ""},
		"the router of an API":           {jsonType, `{"message": "The resource could not be found.<br /><br />\n\n\n", "code": "404 Not Found", "title": "Not Found"}`},
		"an API without the version":     {jsonType, `{"itemNotFound": {"code": 404, "message": "The resource could not be found."}}`},
		"placement":                      {jsonType, `{"errors": [{"status": 404, "title": "Not Found", "detail": "No resource provider with uuid {id} found.", "request_id": "req-1"}]}`},
		"Neutron":                        {jsonType, `{"NeutronError": {"type": "PortNotFound", "message": "Port {id} could not be found.", "detail": ""}}`},
		"Glance":                         {html, "<html>\n <head>\n  <title>404 Not Found</title>\n </head>\n <body>\n  <h1>404 Not Found</h1>\n  Failed to find image {id}<br /><br />\n </body>\n</html>"},
		"the service about another one":  {jsonType, `{"itemNotFound": {"code": 404, "message": "Volume 99999999-9999-4999-8999-999999999999 could not be found."}}`},
		"the service about a longer id":  {jsonType, `{"itemNotFound": {"code": 404, "message": "Volume {id}0 could not be found."}}`},
		"Nova about another server":      {jsonType, `{"itemNotFound": {"code": 404, "message": "Instance 99999999-9999-4999-8999-999999999999 could not be found."}}`},
		"an error that is not of 404":    {jsonType, `{"itemNotFound": {"code": 400, "message": "Volume {id} could not be found."}}`},
		"an error of another name":       {jsonType, `{"notFound": {"code": 404, "message": "Volume {id} could not be found."}}`},
		"an API gateway":                 {jsonType, `{"error_msg":"The API does not exist or has not been published in the environment","error_code":"APIGW.0101","request_id":"{id}"}`},
		"a fault beside another element": {jsonType, `{"itemNotFound": {"code": 404, "message": "Volume {id} could not be found."}, "error": {}}`},
	}
	faults := make(map[string]Fault, len(answers))
	for name, a := range answers {
		faults[name] = Foreign(http.StatusNotFound, a.contentType, a.body)
	}
	return faults
}

// send puts a foreign answer on the wire.
func (p foreignPage) send(w http.ResponseWriter, path string, status int) {
	body := strings.ReplaceAll(p.body, "{id}", lastID(path))
	if p.contentType != "" {
		w.Header().Set("Content-Type", p.contentType)
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// lastID returns the last UUID of a path.
func lastID(path string) string {
	ids := regexp.MustCompile(`(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).FindAllString(path, -1)
	if len(ids) == 0 {
		return ""
	}
	return ids[len(ids)-1]
}

package fakecloud

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// The services live below these paths of one server, as behind a web server.
const (
	identityPath = "/identity"
	volumePath   = "/volume"
	computePath  = "/compute"
)

// maxBody is the largest request that is read, in bytes (Cinder's default).
const maxBody = 114688

// exchange is one request on its way through the cloud.
type exchange struct {
	http      *http.Request
	requestID string
	route     route
	values    map[string]string // of the {names} in the route
	body      object
	action    string // the key of an action's body
	version   microversion
	token     *token
	script    script
}

// part returns the object below key in the body, or an empty one.
func (x *exchange) part(key string) object {
	o, _ := x.body[key].(object)
	if o == nil {
		return object{}
	}
	return o
}

func (o objectReader) text(key string) string {
	s, _ := o.object[key].(string)
	return s
}

// objectReader reads fields of a JSON object that a client sent.
type objectReader struct{ object object }

// number reads a whole number, also one in a string, as Cinder does.
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

// positive checks a whole number as the schemas of Cinder do.
func (o objectReader) positive(key string) *reply {
	n, given, valid := o.number(key)
	switch {
	case !given:
		return nil
	case !valid:
		return faultf(http.StatusBadRequest, "Invalid input for field/attribute %s. Value: %v. '%[2]v' does not match '^[0-9]+$'", key, o.object[key])
	case n < 1:
		return faultf(http.StatusBadRequest, "Invalid input for field/attribute %s. Value: %d. %[2]d is less than the minimum of 1", key, n)
	}
	return nil
}

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

// ServeHTTP answers one request.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !c.enter() {
		return
	}
	defer c.running.Done()
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return
	}
	x := &exchange{http: r}
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	malformed := len(raw) > 0 && decoder.Decode(&x.body) != nil
	c.route(x)
	wait := c.admit(x)
	if x.script.cut == cutBefore {
		sever(w)
		return
	}
	if !c.resumes(x) || !c.pause(wait) {
		sever(w)
		return
	}
	if x.script.late != nil {
		c.performLate(x, malformed)
		gatewayTimeout(w)
		return
	}
	out := c.perform(x, malformed)
	c.note(x, out)
	c.send(w, x, out)
}

// performLate does what was asked when the script says so; nobody gets the
// answer.
func (c *Cloud) performLate(x *exchange, malformed bool) {
	c.running.Go(func() {
		select {
		case <-x.script.late:
			c.note(x, c.perform(x, malformed))
		case <-c.done:
		}
	})
}

// gatewayTimeout answers as nginx does.
func gatewayTimeout(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusGatewayTimeout)
	_, _ = io.WriteString(w, "<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body>\r\n"+
		"<center><h1>504 Gateway Time-out</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n")
}

func (c *Cloud) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.running.Add(1)
	}
	return !c.closed
}

// perform does what was asked, under the lock.
func (c *Cloud) perform(x *exchange, malformed bool) *reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.script.expire {
		delete(c.tokens, x.http.Header.Get("X-Auth-Token"))
	}
	if x.script.status != 0 {
		_ = c.chooseVersion(x) // for the record
		return x.script.answer(x.route.service)
	}
	if x.route.auth {
		if out := c.authenticate(x); out != nil {
			return out
		}
	}
	if x.route.handle == nil && x.action == "" {
		return nowhere()
	}
	if out := c.chooseVersion(x); out != nil {
		return out
	}
	project := x.values["project"]
	switch {
	case project != "" && project != x.token.projectID():
		return fault(http.StatusBadRequest, "Malformed request url")
	case x.route.handle == nil && x.route.service == computePath:
		return faultf(http.StatusBadRequest, "There is no such action: %s", x.action)
	case x.route.handle == nil:
		return faultf(http.StatusBadRequest, "There is no such action: %s. Verify the request body and Content-Type header and try again.", x.action)
	case !x.version.since(x.route.since):
		return fault(http.StatusNotFound, "The resource could not be found.")
	case malformed:
		return fault(http.StatusBadRequest, "Malformed request body")
	}
	return x.route.handle(c, x)
}

// authenticate looks at the token.
func (c *Cloud) authenticate(x *exchange) *reply {
	t := c.valid(x.http.Header.Get("X-Auth-Token"))
	if t == nil {
		return unauthorized(c.url + identityPath)
	}
	x.token = t
	return nil
}

func (c *Cloud) chooseVersion(x *exchange) (out *reply) {
	switch {
	case x.route.bare:
	case x.route.service == volumePath:
		x.version, out = c.cinder.negotiate(x.http.Header, "volume")
	case x.route.service == computePath:
		x.version, out = c.nova.negotiate(x.http.Header, "compute")
	}
	return out
}

// send puts the answer on the wire, or as much of it as the script allows.
func (c *Cloud) send(w http.ResponseWriter, x *exchange, out *reply) {
	if x.script.cut == cutAfter {
		sever(w)
		return
	}
	if x.script.foreign != nil {
		x.script.foreign.send(w, x.http.URL.Path, out.status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", jsonType)
	if !x.route.bare {
		h.Set("X-Openstack-Request-Id", x.requestID)
	}
	switch {
	case x.version == microversion{}: // not negotiated
	case x.route.service == volumePath:
		h.Set("X-Compute-Request-Id", x.requestID)
		h.Set("Openstack-Api-Version", "volume "+x.version.String())
		h.Set("Vary", "OpenStack-API-Version")
	case x.route.service == computePath:
		h.Set("X-Compute-Request-Id", x.requestID)
		h.Set("Openstack-Api-Version", "compute "+x.version.String())
		h.Set("X-Openstack-Nova-Api-Version", x.version.String())
		h.Set("Vary", "OpenStack-API-Version, X-OpenStack-Nova-API-Version")
	}
	for k, v := range out.header {
		h.Set(k, v)
	}
	var body []byte
	if out.body != nil {
		var err error
		if body, err = json.Marshal(out.body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	c.write(w, x, out.status, body)
}

func (c *Cloud) write(w http.ResponseWriter, x *exchange, status int, body []byte) {
	h := w.Header()
	if x.script.contentType != "" {
		h.Set("Content-Type", x.script.contentType)
		body = []byte("<html><body><h1>Welcome</h1></body></html>")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if x.script.truncate {
		body = body[:len(body)/2]
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	if len(body) == 0 {
		h.Del("Content-Type")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// sever cuts the connection with a reset, as a broken network does.
func sever(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

package fakecloud

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// The path prefixes of the services on the one server, as behind a web server.
const (
	identityPath = "/identity"
	volumePath   = "/volume"
	computePath  = "/compute"
)

// maxBody is the maximum size of a request body in bytes (default of Cinder).
const maxBody = 114688

// exchange is one request while the cloud handles it.
type exchange struct {
	http      *http.Request
	requestID string
	route     route
	values    map[string]string // segments of the path by the {names} of the route
	body      object
	action    string // key of the body, if the route is an action
	version   microversion
	token     *token
	plan      faultPlan
}

// object returns the object with this key in the body, or an empty object.
func (x *exchange) object(key string) object {
	o, _ := x.body[key].(object)
	if o == nil {
		return object{}
	}
	return o
}

// ServeHTTP records a request, executes it and sends the answer, disturbed by the faults of the
// rules.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !c.beginRequest() {
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
	delay := c.recordRequest(x)
	if x.plan.cut == cutBeforeExecution || !c.waitWhileHanging(x) || !c.sleep(delay) {
		cutConnection(w)
		return
	}
	if x.plan.delivery != nil {
		c.executeOnDelivery(x, malformed)
		answerGatewayTimeout(w)
		return
	}
	out := c.execute(x, malformed)
	c.recordReply(x, out)
	c.send(w, x, out)
}

// executeOnDelivery executes the request when the delivery channel is closed. The client does not
// get the answer.
func (c *Cloud) executeOnDelivery(x *exchange, malformed bool) {
	c.running.Go(func() {
		select {
		case <-x.plan.delivery:
			c.recordReply(x, c.execute(x, malformed))
		case <-c.done:
		}
	})
}

// answerGatewayTimeout answers 504 as nginx does.
func answerGatewayTimeout(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusGatewayTimeout)
	_, _ = io.WriteString(w, "<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body>\r\n"+
		"<center><h1>504 Gateway Time-out</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n")
}

// beginRequest makes Close wait for the request. It reports whether the cloud still runs.
func (c *Cloud) beginRequest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.running.Add(1)
	}
	return !c.closed
}

// execute checks the request in the order of the real services, changes the state of the cloud and
// returns the answer.
func (c *Cloud) execute(x *exchange, malformed bool) *reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.plan.expireToken {
		delete(c.tokens, x.http.Header.Get("X-Auth-Token"))
	}
	if x.plan.status != 0 {
		_ = c.negotiateVersion(x) // only for recordReply
		return x.plan.errorReply(x.route.service)
	}
	if x.route.needsToken {
		if out := c.authenticate(x); out != nil {
			return out
		}
	}
	if x.route.handle == nil && x.action == "" {
		return unknownPathError()
	}
	if out := c.negotiateVersion(x); out != nil {
		return out
	}
	project := x.values["project"]
	switch {
	case project != "" && project != x.token.projectID():
		return apiError(http.StatusBadRequest, "Malformed request url")
	case x.route.handle == nil && x.route.service == computePath:
		return apiErrorf(http.StatusBadRequest, "There is no such action: %s", x.action)
	case x.route.handle == nil:
		return apiErrorf(http.StatusBadRequest,
			"There is no such action: %s. Verify the request body and Content-Type header and try again.", x.action)
	case !x.version.isAtLeast(x.route.minMinor):
		return apiError(http.StatusNotFound, "The resource could not be found.")
	case malformed:
		return apiError(http.StatusBadRequest, "Malformed request body")
	}
	return x.route.handle(c, x)
}

// authenticate sets the token of the request, or refuses an invalid one.
func (c *Cloud) authenticate(x *exchange) *reply {
	t := c.validToken(x.http.Header.Get("X-Auth-Token"))
	if t == nil {
		return unauthorizedError(c.url + identityPath + "/v3") // as www_authenticate_uri of the services
	}
	x.token = t
	return nil
}

// negotiateVersion sets the microversion of the request, or refuses one that the service does not
// offer.
func (c *Cloud) negotiateVersion(x *exchange) (out *reply) {
	switch {
	case x.route.omitsHeaders:
	case x.route.service == volumePath:
		x.version, out = c.cinderVersions.negotiate(x.http.Header, "volume")
	case x.route.service == computePath:
		x.version, out = c.novaVersions.negotiate(x.http.Header, "compute")
		if out != nil {
			out.header = map[string]string{"Content-Type": jsonType + "; charset=UTF-8"}
		}
	}
	return out
}

// send sends the answer, or the part of it that the faults leave.
func (c *Cloud) send(w http.ResponseWriter, x *exchange, out *reply) {
	if x.plan.cut == cutAfterExecution {
		cutConnection(w)
		return
	}
	if x.plan.foreign != nil {
		x.plan.foreign.send(w, x.http.URL.Path, out.status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", jsonType)
	if !x.route.omitsHeaders {
		h.Set("X-Openstack-Request-Id", x.requestID)
	}
	switch {
	case x.version == microversion{}: // Keystone, or no version that the service offers
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

// write sends the body with the headers that depend on it.
func (c *Cloud) write(w http.ResponseWriter, x *exchange, status int, body []byte) {
	h := w.Header()
	if x.plan.contentType != "" {
		h.Set("Content-Type", x.plan.contentType)
		body = []byte("<html><body><h1>Welcome</h1></body></html>")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if x.plan.truncate {
		body = body[:len(body)/2]
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	if len(body) == 0 {
		h.Del("Content-Type")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// cutConnection ends the connection with a TCP reset, as a broken network does.
func cutConnection(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

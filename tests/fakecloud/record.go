package fakecloud

import (
	"maps"
	"slices"
	"time"
)

// Request is one request as the cloud got it.
type Request struct {
	Call         Call
	Method       string
	Path         string
	Query        string
	Microversion string // of Cinder or Nova as negotiated
	UserAgent    string
	RequestID    string // as in the header x-openstack-request-id of the answer
	Status       int    // of the answer; 0 while there is none
	Received     time.Time
}

// admit records a request, finds the rule for it and draws how long the
// answer takes.
func (c *Cloud) admit(x *exchange) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	x.requestID = "req-" + c.newID()
	c.counts[x.route.call]++
	c.log = append(c.log, Request{
		Call: x.route.call, Method: x.http.Method, Path: x.http.URL.Path, Query: x.http.URL.RawQuery,
		UserAgent: x.http.UserAgent(), RequestID: x.requestID, Received: time.Now(),
	})
	x.script = c.scriptFor(x.route.call, x.http, x.action)
	return c.answerTime(x.route.call)
}

func (c *Cloud) note(x *exchange, out *reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range slices.Backward(c.log) {
		if c.log[i].RequestID == x.requestID {
			c.log[i].Status = out.status
			if x.route.service != identityPath {
				c.log[i].Microversion = x.version.String()
			}
			return
		}
	}
}

// Requests returns all requests so far, oldest first.
func (c *Cloud) Requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

// Count tells how often a call was made; AnyCall counts all.
func (c *Cloud) Count(call Call) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call != AnyCall {
		return c.counts[call]
	}
	n := 0
	for _, k := range c.counts {
		n += k
	}
	return n
}

// Counts returns the number of all calls that were made.
func (c *Cloud) Counts() map[Call]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

// Forget drops the requests recorded and counted so far.
func (c *Cloud) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = nil
	clear(c.counts)
}

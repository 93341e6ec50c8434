package fakecloud

import (
	"maps"
	"slices"
	"time"
)

// Request is the record of one request that the cloud has received.
type Request struct {
	Call         Call
	Method       string
	Path         string
	Query        string
	Microversion string // negotiated with Cinder or Nova; empty for Keystone
	UserAgent    string
	RequestID    string // value of the header x-openstack-request-id in the answer
	Status       int    // of the answer; 0 before the answer
	Received     time.Time
}

// recordRequest appends the request to the records, chooses its faults and returns the delay of the
// answer.
func (c *Cloud) recordRequest(x *exchange) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	x.requestID = "req-" + c.newID()
	c.counts[x.route.call]++
	c.requests = append(c.requests, Request{
		Call: x.route.call, Method: x.http.Method, Path: x.http.URL.Path, Query: x.http.URL.RawQuery,
		UserAgent: x.http.UserAgent(), RequestID: x.requestID, Received: time.Now(),
	})
	x.plan = c.nextFaultPlan(x.route.call, x.http, x.action)
	return c.drawAnswerTime(x.route.call)
}

// recordReply adds the answer to the record of its request.
func (c *Cloud) recordReply(x *exchange, out *reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range slices.Backward(c.requests) {
		if c.requests[i].RequestID == x.requestID {
			c.requests[i].Status = out.status
			if x.route.service != identityPath {
				c.requests[i].Microversion = x.version.String()
			}
			return
		}
	}
}

// Requests returns all requests so far, oldest first.
func (c *Cloud) Requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Count returns the number of requests of a call; AnyCall stands for all calls.
func (c *Cloud) Count(call Call) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call != AnyCall {
		return c.counts[call]
	}
	sum := 0
	for _, n := range c.counts {
		sum += n
	}
	return sum
}

// Counts returns the number of requests of each call.
func (c *Cloud) Counts() map[Call]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}

// ClearRequests discards the records and counts of all requests so far.
func (c *Cloud) ClearRequests() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = nil
	clear(c.counts)
}

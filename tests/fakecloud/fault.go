package fakecloud

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Match selects the requests that a rule disturbs. Empty fields match every request.
type Match struct {
	Call   Call
	Method string
	Path   *regexp.Regexp // of the whole path
	Action string         // key of the body of a POST …/action
}

func (m Match) matches(call Call, r *http.Request, action string) bool {
	return (m.Call == AnyCall || m.Call == call) &&
		(m.Action == "" || m.Action == action) &&
		(r == nil || ((m.Method == "" || m.Method == r.Method) && (m.Path == nil || m.Path.MatchString(r.URL.Path))))
}

// Rule disturbs the requests that its Match selects. A new rule acts once. If several rules match a
// request, the oldest one acts that still has acts left.
type Rule struct {
	cloud     *Cloud
	match     Match
	faults    []Fault
	skip      int // matching requests that pass before the rule acts
	remaining int // acts; negative: no limit
	hits      int
	removed   chan struct{} // closed by Remove
}

// On adds a rule that applies the faults to the next matching request.
func (c *Cloud) On(m Match, faults ...Fault) *Rule {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &Rule{cloud: c, match: m, faults: faults, remaining: 1, removed: make(chan struct{})}
	c.rules = append(c.rules, r)
	return r
}

// Times lets the rule act n times; a negative n sets no limit.
func (r *Rule) Times(n int) *Rule {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	r.remaining = n
	return r
}

// Always lets the rule act until it is removed.
func (r *Rule) Always() *Rule { return r.Times(-1) }

// After lets n matching requests pass before the rule acts.
func (r *Rule) After(n int) *Rule {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	r.skip = n
	return r
}

// Hits returns how many requests the rule has disturbed.
func (r *Rule) Hits() int {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	return r.hits
}

// Remove removes the rule. Requests that hang because of the rule continue.
func (r *Rule) Remove() {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	select {
	case <-r.removed:
	default:
		close(r.removed)
	}
	r.cloud.rules = slices.DeleteFunc(r.cloud.rules, func(o *Rule) bool { return o == r })
}

// nextFaultPlan returns the faults of one request and counts the act of the rule; the caller holds
// c.mu. r is nil for calls that are no requests.
func (c *Cloud) nextFaultPlan(call Call, r *http.Request, action string) faultPlan {
	var plan faultPlan
	for _, rule := range c.rules {
		if rule.remaining == 0 || !rule.match.matches(call, r, action) {
			continue
		}
		if rule.skip > 0 {
			rule.skip--
			continue
		}
		if rule.remaining > 0 {
			rule.remaining--
		}
		rule.hits++
		plan.resumed = rule.removed
		for _, f := range rule.faults {
			f(&plan)
		}
		return plan
	}
	return plan
}

// faultPlan has the effects of the faults on one request. The zero value disturbs nothing.
type faultPlan struct {
	cut           cutPoint
	status        int // of an answer without execution; 0: the request is executed
	message       string
	foreign       *foreignPage // body of that answer, if another server writes it
	retryAfter    string
	truncate      bool
	contentType   string
	expireToken   bool
	outcome       outcome
	size          int           // in GiB, with outcomeOtherSize
	extraWorkTime time.Duration // added to the work after the answer
	eventLost     bool
	staleReads    int // see StaysListed
	hangs         bool
	resumed       <-chan struct{} // closed when the hanging request continues
	delivery      <-chan struct{} // the request is executed when delivery is closed; nil: at once
}

// cutPoint is when the connection breaks.
type cutPoint uint8

const (
	cutNowhere cutPoint = iota
	cutBeforeExecution
	cutAfterExecution
)

// outcome is how the work ends that follows an answer.
type outcome uint8

const (
	outcomeSuccess   outcome = iota
	outcomeStuck             // the object keeps its state: extending, creating, …
	outcomeFailure           // the object gets its error state
	outcomeRefused           // Cinder's scheduler finds no backend
	outcomeOtherSize         // an extension succeeds with another size
	outcomeReserved          // an attachment stays reserved
)

// Fault changes how the cloud handles one request.
type Fault func(*faultPlan)

// LostReply executes the request and cuts the connection instead of answering.
func LostReply() Fault { return func(plan *faultPlan) { plan.cut = cutAfterExecution } }

// Hangs delays the execution and the answer until the rule is removed, like a service whose
// processes are stopped (SIGSTOP). The request is executed then even if its client has gone.
func Hangs() Fault { return func(plan *faultPlan) { plan.hangs = true } }

// CutOff cuts the connection and executes nothing.
func CutOff() Fault { return func(plan *faultPlan) { plan.cut = cutBeforeExecution } }

// DeliveredLate answers 504 like a proxy that gives up on the cloud, and executes the request when
// deliver is closed.
func DeliveredLate(deliver <-chan struct{}) Fault {
	return func(plan *faultPlan) { plan.delivery = deliver }
}

// Status answers with an error and executes nothing. The message may be empty.
func Status(status int, message string) Fault {
	return func(plan *faultPlan) { plan.status, plan.message = status, message }
}

// Throttled answers with the status 413 or 429 of a rate limit and executes nothing. retryAfter is
// in seconds; if it is negative, the answer has no Retry-After header.
func Throttled(status, retryAfter int) Fault {
	return func(plan *faultPlan) {
		plan.status, plan.message = status, "This request was rate-limited."
		if retryAfter >= 0 {
			plan.retryAfter = strconv.Itoa(retryAfter)
		}
	}
}

// errorReply returns the planned error in the format of the service.
func (plan faultPlan) errorReply(service string) *reply {
	if service == identityPath {
		return keystoneError(plan.status, http.StatusText(plan.status), plan.message)
	}
	return overLimitError(plan.status, plan.message, plan.retryAfter)
}

// TokenExpires invalidates the token of the request, which is then answered with 401.
func TokenExpires() Fault { return func(plan *faultPlan) { plan.expireToken = true } }

// Truncated sends only the first half of the body; the Content-Length is that of the half.
func Truncated() Fault { return func(plan *faultPlan) { plan.truncate = true } }

// WrongContentType executes the request and answers with an HTML page, like a proxy.
func WrongContentType() Fault { return func(plan *faultPlan) { plan.contentType = "text/html" } }

// Stuck leaves the object in the state that it has while the work runs: extending, creating,
// deleting, attaching, detaching, … Release ends the work.
func Stuck() Fault { return func(plan *faultPlan) { plan.outcome = outcomeStuck } }

// Slow adds d to the time of the work that follows the answer.
func Slow(d time.Duration) Fault { return func(plan *faultPlan) { plan.extraWorkTime = d } }

// Fails lets the work fail. A new volume, snapshot or backup ends in "error", an extension in
// "error_extending", a deleted volume or snapshot in "error_deleting"; an attachment goes back to
// "available", a detachment to "in-use", a retype to the old type.
func Fails() Fault { return func(plan *faultPlan) { plan.outcome = outcomeFailure } }

// Refused lets Cinder's scheduler find no backend. An extension goes back to the old state and
// size, a deleted snapshot to "available", a retype to the old type; a new volume, snapshot or
// backup ends in "error". Extensions, new volumes and snapshots leave a user message.
func Refused() Fault { return func(plan *faultPlan) { plan.outcome = outcomeRefused } }

// EndsWithSize lets an extension succeed with this size in GiB, whatever the request asked for.
func EndsWithSize(gib int) Fault {
	return func(plan *faultPlan) { plan.outcome, plan.size = outcomeOtherSize, gib }
}

// StaysReserved leaves an attachment in the state "reserved". Release ends the work.
func StaysReserved() Fault { return func(plan *faultPlan) { plan.outcome = outcomeReserved } }

// StaysListed ends a detachment in Cinder, but Nova shows the attachment in the next n requests for
// it.
func StaysListed(n int) Fault { return func(plan *faultPlan) { plan.staleReads = n } }

// EventLost loses the event that tells Nova about an extension: Cinder reports the new size, but
// the guest keeps the old one. If Cinder cannot send the event (ExtendVolume), it leaves a user
// message (009); if Nova loses the event (GuestResize), there is no message.
func EventLost() Fault { return func(plan *faultPlan) { plan.eventLost = true } }

package fakecloud

import (
	"net/http"
	"regexp"
	"slices"
	"time"
)

// Match says which requests a rule is for. Empty fields match all.
type Match struct {
	Call   Call
	Method string
	Path   *regexp.Regexp // of the whole path
	Action string         // key of the body of a POST …/action
}

func (m Match) fits(call Call, r *http.Request, action string) bool {
	return (m.Call == AnyCall || m.Call == call) &&
		(m.Action == "" || m.Action == action) &&
		(r == nil || ((m.Method == "" || m.Method == r.Method) && (m.Path == nil || m.Path.MatchString(r.URL.Path))))
}

// Rule disturbs the requests of a match. A new rule acts once; of several
// that fit a request the oldest that is not used up acts.
type Rule struct {
	cloud  *Cloud
	match  Match
	faults []Fault
	skip   int
	left   int // negative: for ever
	hits   int
	ended  chan struct{} // closed by Remove
}

// On makes a rule that acts on the next request that fits.
func (c *Cloud) On(m Match, faults ...Fault) *Rule {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &Rule{cloud: c, match: m, faults: faults, left: 1, ended: make(chan struct{})}
	c.rules = append(c.rules, r)
	return r
}

// Times lets the rule act n times; negative: for ever.
func (r *Rule) Times(n int) *Rule {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	r.left = n
	return r
}

// Always lets the rule act until it is removed.
func (r *Rule) Always() *Rule { return r.Times(-1) }

// After lets n fitting requests pass first.
func (r *Rule) After(n int) *Rule {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	r.skip = n
	return r
}

// Hits tells how often the rule has acted.
func (r *Rule) Hits() int {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	return r.hits
}

// Remove ends the rule. Requests that hang by it go on.
func (r *Rule) Remove() {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	select {
	case <-r.ended:
	default:
		close(r.ended)
	}
	r.cloud.rules = slices.DeleteFunc(r.cloud.rules, func(o *Rule) bool { return o == r })
}

// scriptFor uses up one act of the first rule that fits; the lock is held.
func (c *Cloud) scriptFor(call Call, r *http.Request, action string) script {
	var s script
	for _, rule := range c.rules {
		if rule.left == 0 || !rule.match.fits(call, r, action) {
			continue
		}
		if rule.skip > 0 {
			rule.skip--
			continue
		}
		if rule.left > 0 {
			rule.left--
		}
		rule.hits++
		s.resumed = rule.ended
		for _, f := range rule.faults {
			f(&s)
		}
		return s
	}
	return s
}

// script is what goes wrong with one request.
type script struct {
	cut         cut
	status      int // of an answer without execution; 0: none
	message     string
	foreign     *foreignPage // the body of that answer, if another server wrote it
	retryAfter  string
	truncate    bool
	contentType string
	expire      bool
	outcome     outcome
	size        int           // with endsShort
	slow        time.Duration // added to the time until it is done
	eventLost   bool
	lingers     int
	hangs       bool
	resumed     <-chan struct{} // closed when what hangs goes on
	late        <-chan struct{} // the request is executed when this is closed; nil: at once
}

// cut is where the connection breaks.
type cut uint8

const (
	noCut cut = iota
	cutBefore
	cutAfter
)

// outcome is how the work behind an answered request ends.
type outcome uint8

const (
	succeeds  outcome = iota
	stuck             // stays in its state of passage
	fails             // ends in the state of error that belongs to it
	refused           // the scheduler takes it back
	endsShort         // ends well, with another size
	reserved          // an attachment never gets beyond the reservation
)

// Fault is one thing that goes wrong.
type Fault func(*script)

// LostReply executes the request and cuts the connection instead of
// answering.
func LostReply() Fault { return func(s *script) { s.cut = cutAfter } }

// Hangs leaves the request without an answer until the rule is removed, as a
// service does whose processes are stopped (SIGSTOP). It is executed then, also
// if its client has gone.
func Hangs() Fault { return func(s *script) { s.hangs = true } }

// CutOff cuts the connection before anything is executed.
func CutOff() Fault { return func(s *script) { s.cut = cutBefore } }

// Late is a proxy that gives up on the cloud with 504 and still delivers the
// request, when deliver is closed.
func Late(deliver <-chan struct{}) Fault { return func(s *script) { s.late = deliver } }

// Status answers with an error and executes nothing. The message may be
// empty.
func Status(status int, message string) Fault {
	return func(s *script) { s.status, s.message = status, message }
}

// Throttled answers with 413 or 429 as a rate limit does; retryAfter is in
// seconds, negative: the header is missing.
func Throttled(status, retryAfter int) Fault {
	return func(s *script) {
		s.status, s.message = status, "This request was rate-limited."
		if retryAfter >= 0 {
			s.retryAfter = itoa(retryAfter)
		}
	}
}

// answer is the scripted answer in the shape of the service.
func (s script) answer(service string) *reply {
	if service == identityPath {
		return keystoneError(s.status, http.StatusText(s.status), s.message)
	}
	return overLimit(s.status, s.message, s.retryAfter)
}

// TokenExpires makes the token of the request invalid, so that it is answered
// with 401.
func TokenExpires() Fault { return func(s *script) { s.expire = true } }

// Truncated sends half of the body, with the length of the half.
func Truncated() Fault { return func(s *script) { s.truncate = true } }

// WrongContentType executes the request and answers with a page of HTML, as a
// proxy in between does.
func WrongContentType() Fault { return func(s *script) { s.contentType = "text/html" } }

// Stuck leaves the volume, snapshot or backup in the state of passage:
// extending, creating, deleting, attaching, detaching. Release ends it.
func Stuck() Fault { return func(s *script) { s.outcome = stuck } }

// Slow adds to the time until the work is done.
func Slow(d time.Duration) Fault { return func(s *script) { s.slow = d } }

// Fails ends the work badly: a create in "error", an extend in
// "error_extending" with a message, a delete in "error_deleting"; an attach
// goes back to "available", a detach to "in-use", a retype to the old type.
func Fails() Fault { return func(s *script) { s.outcome = fails } }

// Refused lets Cinder's scheduler find no backend: an extend goes back to the
// state and size before, a create ends in "error", the deletion of a snapshot
// goes back to "available"; a message tells why.
func Refused() Fault { return func(s *script) { s.outcome = refused } }

// EndsWithSize ends an extend well, but with this many GiB.
func EndsWithSize(gib int) Fault {
	return func(s *script) { s.outcome, s.size = endsShort, gib }
}

// StaysReserved leaves an attach in the state "reserved". Release ends it.
func StaysReserved() Fault { return func(s *script) { s.outcome = reserved } }

// Lingers ends a detach in Cinder while Nova still lists the volume in the
// next n requests for attachments.
func Lingers(n int) Fault { return func(s *script) { s.lingers = n } }

// EventLost loses the event to Nova after an extend: Cinder reports the new
// size, the guest keeps the old one. Cinder leaves a message (009).
func EventLost() Fault { return func(s *script) { s.eventLost = true } }

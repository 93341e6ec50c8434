package cinder

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// Rhythm of the poller. A look at one volume costs Cinder 20 to 70 ms of work,
// a page of a hundred some 300 ms.
const (
	firstLook   = 50 * time.Millisecond // after this, while it is not known how long the operation takes
	latestFirst = 3 * time.Second       // at the latest after this, however long it usually takes
	// Further looks come at intervals of a part of the time waited so far: whoever
	// has waited long can bear to hear of the end a little later.
	stepShare    = 0.2
	shortestStep = 25 * time.Millisecond
	longestStep  = 5 * time.Second

	slack         = 20 * time.Millisecond  // looks that are due so soon are taken together
	longestPause  = 10 * time.Second       // between attempts while the cloud does not answer
	straggle      = 500 * time.Millisecond // single readings that take longer are not waited for
	shortestPage  = 5 * time.Second        // that a page may take; more after each that failed
	longestLook   = 30 * time.Second
	singlesATick  = 8 // single readings beside a page
	severalVolume = 3 // from so many on, one page is cheaper than single readings
	largestPage   = 1000
)

// reader is what the poller needs of a cloud.
type reader interface {
	Volume(ctx context.Context, id string) (cloud.Volume, error)
	Volumes(ctx context.Context, page cloud.VolumePage) ([]cloud.Volume, string, error)
}

// poller looks after all volumes of one cloud that somebody waits for. A
// single one is read by itself, at intervals that begin near the time that
// such operations have taken lately. For several there is one page per tick
// of the volumes that changed last: what everybody waits for is a change. Its
// goroutine lives only while somebody waits.
type poller struct {
	api reader
	log *slog.Logger

	mu        sync.Mutex
	waits     map[*wait]struct{}
	stop      context.CancelFunc // ends the goroutine; nil: there is none
	wake      chan struct{}      // the goroutine's: a wait has come, which may be due before the others
	notBefore time.Time          // keeps a slow or failing cloud from being pressed
	failures  int                // in a row
	underWay  map[string]bool    // volumes that are just being read by themselves
	usual     map[string]time.Duration
}

// wait is one caller's.
type wait struct {
	id       string
	since    time.Time
	next     time.Time    // when to look again
	readings chan reading // the latest only
}

type reading struct {
	volume cloud.Volume
	err    error
	at     time.Time // when it was asked for
}

func newPoller(api reader, log *slog.Logger) *poller {
	return &poller{
		api: api, log: log, waits: make(map[*wait]struct{}), usual: make(map[string]time.Duration), underWay: make(map[string]bool),
	}
}

// await is Backend.await.
func (p *poller) await(ctx context.Context, id, op string, done func(cloud.Volume) (bool, error)) (cloud.Volume, error) {
	ctx, cancel := inHand(ctx)
	defer cancel()
	left := time.Duration(math.MaxInt64)
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	w := p.enter(id, op, left) //nolint:contextcheck // the polling that it may begin serves all that wait, not this request
	defer p.leave(w)
	var last reading
	for {
		select {
		case r := <-w.readings:
			if transient(r.err) {
				last.err = r.err
				continue
			}
			var good bool
			if r.err == nil {
				good, r.err = done(r.volume)
			}
			if good || volume.IsKind(r.err, volume.KindNotFound) {
				p.learn(op, r.at.Sub(w.since))
			}
			if good || r.err != nil {
				return r.volume, r.err
			}
			last = r
		case <-ctx.Done():
			return last.volume, late(ctx, op, last)
		}
	}
}

// inHand ends a wait a little before the caller's own deadline, so that the
// answer, which says what is still missing, gets back in time.
func inHand(ctx context.Context) (context.Context, context.CancelFunc) {
	return operation.WithMargin(ctx, time.Second, 10)
}

// late is the error of a wait whose context has ended.
func late(ctx context.Context, op string, last reading) error {
	seen := "it could not be read"
	if last.volume.ID != "" {
		seen = fmt.Sprintf("it was last seen %s with %s", last.volume.Status, cloud.SizeOf(last.volume))
	}
	return &volume.Error{
		Kind: volume.KindOf(context.Cause(ctx)), Msg: fmt.Sprintf("the time ran out in waiting for Cinder (%s); %s", op, seen), Cause: last.err,
		Remedy: "nothing needs to be done: it goes on, and the next call takes it up from there",
	}
}

// enter registers a wait and sees to it that somebody polls. However long such
// operations take, there is a look within the first half of the time left:
// otherwise a caller in a hurry would learn nothing.
func (p *poller) enter(id, op string, left time.Duration) *wait {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	w := &wait{id: id, since: now, readings: make(chan reading, 1)}
	first := firstLook
	if usual, known := p.usual[op]; known {
		first = min(max(usual*85/100, shortestStep), latestFirst)
	}
	w.next = now.Add(min(first, left/2))
	p.waits[w] = struct{}{}
	if p.stop == nil {
		// The polling belongs to no single request: it serves all that wait.
		ctx, stop := context.WithCancel(context.Background())
		p.stop, p.wake = stop, make(chan struct{}, 1)
		go p.run(ctx, p.wake)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return w
}

func (p *poller) leave(w *wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waits, w)
	if len(p.waits) == 0 {
		p.stop()
		p.stop = nil
	}
}

// learn keeps the time that an operation usually takes, on the low side: a
// look too early costs a call, one too late makes a user wait.
func (p *poller) learn(op string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	usual, known := p.usual[op]
	switch {
	case !known:
		usual = took
	case took < usual:
		// It was seen at the first look, so it takes less than that.
		usual -= (usual - took) * 60 / 100
	default:
		usual += (took - usual) * 15 / 100
	}
	p.usual[op] = usual
}

// run polls until nobody waits.
func (p *poller) run(ctx context.Context, wake <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return // both were ready: what is due is the next goroutine's
		}
		due, all, pause := p.due()
		if len(due) > 0 {
			p.look(ctx, due, all)
			_, _, pause = p.due()
		}
		timer.Reset(pause)
	}
}

// due returns the waits to look after now, the most overdue first, and all
// waits; without any, the time until the next is due.
func (p *poller) due() (due, all []*wait, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	pause = longestStep
	for w := range p.waits {
		all = append(all, w)
		pause = min(pause, w.next.Sub(now))
		if !w.next.After(now.Add(slack)) {
			due = append(due, w)
		}
	}
	if gate := p.notBefore.Sub(now); pause > 0 || gate > 0 {
		return nil, all, max(pause, gate, 0)
	}
	sortByNext(due)
	return due, all, 0
}

// after tells when to look again, now that these have been looked after.
func (p *poller) after(looked []*wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, w := range looked {
		step := time.Duration(stepShare * float64(now.Sub(w.since)))
		// Jitter keeps controllers that began together from staying together. A
		// look that was planned for later stays there: a page has come by chance.
		if next := now.Add(jitter(min(max(step, shortestStep), longestStep))); next.After(w.next) {
			w.next = next
		}
	}
}

// ease sets the earliest time of the next look by how the last one went: a
// page may take up half of the time at most, and failures are given more and
// more time.
func (p *poller) ease(cost time.Duration, failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pause := min(cost, longestStep)
	if failed {
		p.failures = min(p.failures+1, 10)
		pause = max(pause, jitter(min(firstLook<<p.failures, longestPause)))
	} else {
		p.failures = 0
	}
	p.notBefore = time.Now().Add(pause)
}

// patience is the time that a page may take. All that wait share it, so that one
// call that hangs must not hold them up for long; a cloud that is slow is given
// more with each failure.
func (p *poller) patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(shortestPage<<p.failures, longestLook)
}

// jitter spreads d by ten percent to either side.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// put hands a reading to the waiting goroutine. An older one that it has not
// taken yet is of no use any more.
func (w *wait) put(r reading) {
	for {
		select {
		case w.readings <- r:
			return
		default:
		}
		select {
		case <-w.readings:
		default:
		}
	}
}

package poll

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/cinder/internal/message"
	"github.com/growvol/growvol/pkg/volume"
)

// Delays and limits of the poller. Cinder takes 20 to 70 ms to return one volume, and about 300 ms
// for a page of a hundred.
const (
	// initialDelay is the time to the first read of an operation without an estimate of how long it
	// takes, and the first pause of Until. maxFirstDelay bounds the delay that an estimate gives.
	initialDelay  = 50 * time.Millisecond
	maxFirstDelay = 3 * time.Second

	// The interval between reads is intervalShare of the time waited so far, but at least
	// minInterval and at most maxInterval: after a long wait a little more delay matters less.
	intervalShare = 0.2
	minInterval   = 25 * time.Millisecond
	maxInterval   = 5 * time.Second

	dueTolerance    = 20 * time.Millisecond  // reads that are due within this time are made together
	maxBackoff      = 10 * time.Second       // between reads while the cloud does not answer
	slowReadTimeout = 500 * time.Millisecond // maximum time that a tick waits for reads of single volumes
	minPageTimeout  = 5 * time.Second        // of a page; doubled with each failure in a row
	maxReadTimeout  = 30 * time.Second       // of a page or a single volume
	maxReadsPerTick = 8                      // of single volumes, besides a page
	pageThreshold   = 3                      // from this many volumes on, one page is cheaper than single reads
	maxPageSize     = 1000                   // volumes; Cinder's default limit (osapi_max_limit)
)

// Reader reads the objects of one cloud. *cloud.Cloud implements it.
type Reader interface {
	Name() string
	Volume(ctx context.Context, id string) (cloud.Volume, error)
	Volumes(ctx context.Context, page cloud.VolumePage) ([]cloud.Volume, string, error)
	Snapshot(ctx context.Context, id string) (cloud.Snapshot, error)
}

// Poller reads the volumes of one cloud that callers of Await wait for. The first read of a volume
// comes near the time that such an operation usually takes. If fewer than pageThreshold volumes are
// due, the Poller reads them one by one; otherwise it reads one page of the volumes that changed
// last, because every caller waits for a change. Its goroutine runs only while there is a wait.
type Poller struct {
	api Reader
	log *slog.Logger

	reading sync.Map // ids of the volumes that a single read is running for

	mu        sync.Mutex
	waits     map[*wait]struct{}
	stop      context.CancelFunc       // ends the goroutine; nil: none is running
	wake      chan struct{}            // tells the goroutine of a new wait, which may be due before the others
	notBefore time.Time                // earliest time of the next read; protects a slow or failing cloud
	failures  int                      // in a row
	estimates map[string]time.Duration // by operation: how long it usually takes
}

// wait is one call of Await.
type wait struct {
	id       string
	since    time.Time
	next     time.Time    // when the volume is due to be read
	readings chan reading // holds the latest one only
}

// reading is what one request returned for a volume.
type reading struct {
	volume cloud.Volume
	err    error
	at     time.Time // when the request was sent
}

func newPoller(api Reader, log *slog.Logger) *Poller {
	return &Poller{
		api: api, log: log, waits: make(map[*wait]struct{}), estimates: make(map[string]time.Duration),
	}
}

// Await waits until done reports true for the volume, and returns the volume as read then. op names
// the operation ("extend"): the duration of earlier ones decides when Await reads first. If ctx
// ends first (kind Deadline or Canceled), Await returns the volume as last read, whose status and
// size are in the error. It retries errors of the kinds Unavailable and Deadline of single
// requests, and returns others. Kind NotFound: the volume is gone. Await calls done on the caller's
// goroutine.
func (p *Poller) Await(ctx context.Context, id, op string, done func(cloud.Volume) bool) (cloud.Volume, error) {
	remaining := time.Duration(math.MaxInt64)
	if deadline, ok := ctx.Deadline(); ok {
		remaining = time.Until(deadline)
	}
	w := p.subscribe(id, op, remaining) //nolint:contextcheck // the goroutine that it may start serves all waits
	defer p.unsubscribe(w)
	var last reading
	for {
		select {
		case r := <-w.readings:
			if isTransient(r.err) {
				last.err = r.err
				continue
			}
			isDone := r.err == nil && done(r.volume)
			if isDone || volume.IsKind(r.err, volume.KindNotFound) {
				p.updateEstimate(op, r.at.Sub(w.since))
			}
			if isDone || r.err != nil {
				return r.volume, r.err
			}
			last = r
		case <-ctx.Done():
			return last.volume, timeoutError(ctx, op, last)
		}
	}
}

// timeoutError is the error of a wait whose context has ended.
func timeoutError(ctx context.Context, op string, last reading) error {
	state := "Cinder did not return the volume"
	if last.volume.ID != "" {
		state = fmt.Sprintf("the volume still has the status %s and %s", last.volume.Status, cloud.SizeOf(last.volume))
	}
	return &volume.Error{
		Kind:   volume.KindOf(context.Cause(ctx)),
		Msg:    fmt.Sprintf("timed out while waiting for Cinder (%s): %s", op, state),
		Cause:  last.err,
		Remedy: message.Continues,
	}
}

// subscribe adds a wait and starts the polling goroutine if none is running. The first read is due
// within half of the remaining time, whatever the estimate, so that a caller with little time also
// gets a reading.
func (p *Poller) subscribe(id, op string, remaining time.Duration) *wait {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	w := &wait{id: id, since: now, readings: make(chan reading, 1)}
	delay := initialDelay
	if estimate, known := p.estimates[op]; known {
		delay = min(max(estimate*85/100, minInterval), maxFirstDelay)
	}
	w.next = now.Add(min(delay, remaining/2))
	p.waits[w] = struct{}{}
	if p.stop == nil {
		// The goroutine serves all waits, so it must not end with the request that starts it.
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

// unsubscribe removes a wait, and stops the polling goroutine with the last one.
func (p *Poller) unsubscribe(w *wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waits, w)
	if len(p.waits) == 0 {
		p.stop()
		p.stop = nil
	}
}

// updateEstimate adapts the estimate of an operation to the duration of one that has ended. The
// estimate falls fast and rises slowly: a read that is too early costs one request, but a read that
// is too late delays a user.
func (p *Poller) updateEstimate(op string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	estimate, known := p.estimates[op]
	switch {
	case !known:
		estimate = took
	case took < estimate:
		// If the first read found the operation done, it took even less.
		estimate -= (estimate - took) * 60 / 100
	default:
		estimate += (took - estimate) * 15 / 100
	}
	p.estimates[op] = estimate
}

// run polls until ctx ends.
func (p *Poller) run(ctx context.Context, wake <-chan struct{}) {
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
			return // select chooses at random among ready cases; the next goroutine serves the new waits
		}
		due, all, pause := p.due()
		if len(due) > 0 {
			p.poll(ctx, due, all)
			_, _, pause = p.due()
		}
		timer.Reset(pause)
	}
}

// due returns the waits whose volumes are to be read now, the most overdue first, and all
// waits. If none is due, it returns the time until the next one is.
func (p *Poller) due() (due, all []*wait, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	pause = maxInterval
	for w := range p.waits {
		all = append(all, w)
		pause = min(pause, w.next.Sub(now))
		if !w.next.After(now.Add(dueTolerance)) {
			due = append(due, w)
		}
	}
	if backoff := p.notBefore.Sub(now); pause > 0 || backoff > 0 {
		return nil, all, max(pause, backoff, 0)
	}
	slices.SortFunc(due, func(a, b *wait) int { return cmp.Compare(a.next.UnixNano(), b.next.UnixNano()) })
	return due, all, 0
}

// reschedule sets the time of the next read of waits whose volumes were just read.
func (p *Poller) reschedule(waits []*wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, w := range waits {
		interval := time.Duration(intervalShare * float64(now.Sub(w.since)))
		// The jitter separates controllers that started at the same time. A read that is due later
		// stays due then: this reading came on a page that was read for another volume.
		if next := now.Add(jitter(min(max(interval, minInterval), maxInterval))); next.After(w.next) {
			w.next = next
		}
	}
}

// throttle sets the earliest time of the next read. The pause is at least as long as the last
// request took, so that requests take at most half of the time, and it grows with each failure in a
// row.
func (p *Poller) throttle(took time.Duration, hasFailed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pause := min(took, maxInterval)
	if hasFailed {
		p.failures = min(p.failures+1, 10)
		pause = max(pause, jitter(min(initialDelay<<p.failures, maxBackoff)))
	} else {
		p.failures = 0
	}
	p.notBefore = time.Now().Add(pause)
}

// pageTimeout returns how long the next request for a page may take. A request that hangs delays
// all waits, so the timeout is short; each failure doubles it, for slow clouds.
func (p *Poller) pageTimeout() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(minPageTimeout<<p.failures, maxReadTimeout)
}

// jitter returns d changed at random by at most 10 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// deliver passes a reading to the waiting goroutine. It replaces an older reading that the
// goroutine has not received yet.
func (w *wait) deliver(r reading) {
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

package fakecloud

import (
	"math"
	"math/rand/v2"
	"time"
)

// Distribution draws a duration. It is called with the cloud's own seeded
// generator, never twice at a time.
type Distribution func(*rand.Rand) time.Duration

// Fixed always gives d.
func Fixed(d time.Duration) Distribution { return func(*rand.Rand) time.Duration { return d } }

// Uniform gives durations from low to below high, evenly.
func Uniform(low, high time.Duration) Distribution {
	return func(r *rand.Rand) time.Duration { return low + time.Duration(r.Int64N(max(int64(high-low), 1))) }
}

// LogNormal gives durations around the median with the long tail that services
// have: sigma 0.5 puts one in a hundred above three times the median.
func LogNormal(median time.Duration, sigma float64) Distribution {
	return func(r *rand.Rand) time.Duration {
		return time.Duration(float64(median) * math.Exp(sigma*r.NormFloat64()))
	}
}

// Latency is how long a call takes.
type Latency struct {
	Answer Distribution // until the answer; nil: at once
	Done   Distribution // from the answer until the work is done; nil: as for AnyCall, which has 2 ms
}

// SetLatency sets how long a call takes, or with AnyCall all calls that have
// no latency of their own.
func (c *Cloud) SetLatency(call Call, l Latency) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call == AnyCall && l.Done == nil {
		l.Done = Fixed(2 * time.Millisecond)
	}
	c.latencies[call] = l
}

// answerTime and doneTime draw for one request; the lock is held.
func (c *Cloud) answerTime(call Call) time.Duration {
	return c.draw(call, func(l Latency) Distribution { return l.Answer })
}

func (c *Cloud) doneTime(call Call) time.Duration {
	return c.draw(call, func(l Latency) Distribution { return l.Done })
}

func (c *Cloud) draw(call Call, which func(Latency) Distribution) time.Duration {
	for _, k := range []Call{call, AnyCall} {
		if d := which(c.latencies[k]); d != nil {
			return d(c.random)
		}
	}
	return 0
}

// later runs f, with the lock held, after d; not at all when the cloud was
// closed before. The lock is held by the caller.
func (c *Cloud) later(d time.Duration, f func()) {
	if c.closed {
		return
	}
	c.running.Go(func() {
		if !c.pause(d) {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.closed {
			f()
		}
	})
}

// work runs f after the time that the call takes. Stuck work is parked until
// Release.
func (c *Cloud) work(x *exchange, id string, f func()) {
	if x.script.outcome == stuck || x.script.outcome == reserved {
		c.parked[id] = append(c.parked[id], f)
		return
	}
	c.later(c.doneTime(x.route.call)+x.script.slow, f)
}

// Release ends the work that a fault left stuck on a volume, snapshot, backup
// or server, as if nothing had been wrong, and tells whether there was any.
func (c *Cloud) Release(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	parked := c.parked[id]
	delete(c.parked, id)
	for _, f := range parked {
		f()
	}
	return len(parked) > 0
}

// resumes waits while the request hangs. It reports whether the cloud still runs.
func (c *Cloud) resumes(x *exchange) bool {
	if !x.script.hangs {
		return true
	}
	select {
	case <-x.script.resumed:
		return true
	case <-c.done:
		return false
	}
}

// pause waits and tells whether the cloud still runs.
func (c *Cloud) pause(d time.Duration) bool {
	if d <= 0 {
		select {
		case <-c.done:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.done:
		return false
	}
}

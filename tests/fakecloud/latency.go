package fakecloud

import (
	"math"
	"math/rand/v2"
	"time"
)

// Distribution draws a duration with the seeded generator of the cloud. It is never called
// concurrently.
type Distribution func(*rand.Rand) time.Duration

// Fixed returns a distribution that always draws d.
func Fixed(d time.Duration) Distribution { return func(*rand.Rand) time.Duration { return d } }

// Uniform returns the even distribution over [low, high).
func Uniform(low, high time.Duration) Distribution {
	return func(r *rand.Rand) time.Duration { return low + time.Duration(r.Int64N(max(int64(high-low), 1))) }
}

// LogNormal returns a distribution around the median with the long tail of real services: with
// sigma 0.5 one draw in a hundred exceeds three times the median.
func LogNormal(median time.Duration, sigma float64) Distribution {
	return func(r *rand.Rand) time.Duration {
		return time.Duration(float64(median) * math.Exp(sigma*r.NormFloat64()))
	}
}

// defaultWorkTime is the work time of AnyCall if SetLatency does not set it.
const defaultWorkTime = 2 * time.Millisecond

// Latency is the time that a call takes.
type Latency struct {
	Answer Distribution // until the answer; nil: no delay
	Work   Distribution // from the answer until the work is done; nil: that of AnyCall
}

// SetLatency sets the time that a call takes; AnyCall stands for all calls without a latency of
// their own.
func (c *Cloud) SetLatency(call Call, l Latency) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call == AnyCall && l.Work == nil {
		l.Work = Fixed(defaultWorkTime)
	}
	c.latencies[call] = l
}

// drawAnswerTime returns the delay before one answer; the caller holds c.mu.
func (c *Cloud) drawAnswerTime(call Call) time.Duration {
	return c.draw(call, func(l Latency) Distribution { return l.Answer })
}

// drawWorkTime returns the duration of the work after one answer; the caller holds c.mu.
func (c *Cloud) drawWorkTime(call Call) time.Duration {
	return c.draw(call, func(l Latency) Distribution { return l.Work })
}

func (c *Cloud) draw(call Call, which func(Latency) Distribution) time.Duration {
	for _, k := range []Call{call, AnyCall} {
		if d := which(c.latencies[k]); d != nil {
			return d(c.random)
		}
	}
	return 0
}

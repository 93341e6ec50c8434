package endpoint

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/growvol/growvol/pkg/readings"
)

const (
	// allowedFor and deniedFor are how long a verdict of the API server counts. A token whose right
	// was taken away reads for at most allowedFor.
	allowedFor = 30 * time.Second
	deniedFor  = 5 * time.Second
	// maxVerdicts bounds the verdicts in memory.
	maxVerdicts = 512
	// maxReviews bounds the reviews at the same time, maxReviewsPerSecond those of a second, so that
	// callers without rights cannot load the API server. reviewTimeout bounds each review together
	// with the time that it waits for the others.
	maxReviews          = 4
	maxReviewsPerSecond = 20
	reviewTimeout       = 5 * time.Second
	// maxTokenLength bounds a token, in bytes. Those of ServiceAccounts have about 1 KiB.
	maxTokenLength = 16 << 10
)

// reviewer has the API server review tokens. This file decides who may read. The reviewer keeps no
// token: its verdicts are by the SHA-256 of the token.
type reviewer struct {
	mayGet  func(ctx context.Context, token, path string) (bool, error)
	log     *slog.Logger
	running chan struct{} // holds one element for each review
	rate    *rate.Limiter

	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]verdict
}

// verdict is an answer of the API server.
type verdict struct {
	isAllowed bool
	until     time.Time
}

func newReviewer(mayGet func(ctx context.Context, token, path string) (bool, error), log *slog.Logger) *reviewer {
	return &reviewer{
		mayGet: mayGet, log: log, running: make(chan struct{}, maxReviews),
		rate:     rate.NewLimiter(maxReviewsPerSecond, maxReviewsPerSecond),
		verdicts: map[[sha256.Size]byte]verdict{},
	}
}

// mayRead reports whether the token in the values of the header may get readings.Path. An error
// says that the API server has not answered: nobody may read then.
func (r *reviewer) mayRead(ctx context.Context, values []string) (bool, error) {
	if len(values) != 1 || values[0] == "" || len(values[0]) > maxTokenLength {
		return false, nil
	}
	hash := sha256.Sum256([]byte(values[0]))
	if v, found := r.find(hash); found {
		return v.isAllowed, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case r.running <- struct{}{}:
		defer func() { <-r.running }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if v, found := r.find(hash); found { // another request with the token was reviewed meanwhile
		return v.isAllowed, nil
	}
	if err := r.rate.Wait(ctx); err != nil {
		return false, err
	}
	asked := time.Now()
	isAllowed, err := r.mayGet(ctx, values[0], readings.Path)
	if err != nil {
		r.log.WarnContext(ctx, "the API server did not review a token for readings", "cause", err)
		return false, err
	}
	r.add(hash, isAllowed, asked)
	return isAllowed, nil
}

func (r *reviewer) find(hash [sha256.Size]byte) (verdict, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, found := r.verdicts[hash]
	return v, found && time.Now().Before(v.until)
}

// add remembers a verdict. When the limit is reached, it first forgets those that are over, then
// refusals, then any.
func (r *reviewer) add(hash [sha256.Size]byte, isAllowed bool, asked time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.verdicts) >= maxVerdicts {
		now := time.Now()
		r.forget(func(v verdict) bool { return !now.Before(v.until) })
		if len(r.verdicts) >= maxVerdicts {
			r.forget(func(v verdict) bool { return !v.isAllowed })
		}
		if len(r.verdicts) >= maxVerdicts {
			clear(r.verdicts)
		}
	}
	until := asked.Add(deniedFor)
	if isAllowed {
		until = asked.Add(allowedFor)
	}
	r.verdicts[hash] = verdict{isAllowed: isAllowed, until: until}
}

func (r *reviewer) forget(isOver func(verdict) bool) {
	for hash, v := range r.verdicts {
		if isOver(v) {
			delete(r.verdicts, hash)
		}
	}
}

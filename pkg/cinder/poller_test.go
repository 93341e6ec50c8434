package cinder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/growvol/growvol/pkg/operation"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// clockwork is a reader whose volumes become available at a given time. It
// runs in a bubble of synctest, whose time passes at once.
type clockwork struct {
	mu      sync.Mutex
	at      map[string]time.Time // when it becomes available
	gone    map[string]time.Time // when it vanishes
	cost    time.Duration        // of a call
	hangs   string               // a volume whose reading never ends
	err     error
	pageErr error
	singles int
	pages   int
	reads   []time.Time
}

func newClockwork() *clockwork {
	return &clockwork{at: make(map[string]time.Time), gone: make(map[string]time.Time)}
}

func (c *clockwork) state(id string) cloud.Volume {
	v := cloud.Volume{ID: id, Status: "extending", Size: 1}
	if at, ok := c.at[id]; ok && !time.Now().Before(at) {
		v.Status, v.Size, v.UpdatedAt = stateAvailable, 2, at
	}
	return v
}

func (c *clockwork) exists(id string) bool {
	at, ok := c.gone[id]
	return !ok || time.Now().Before(at)
}

func (c *clockwork) Volume(ctx context.Context, id string) (cloud.Volume, error) {
	cost := c.cost
	if id == c.hangs {
		cost = time.Hour
	}
	if err := operation.Sleep(ctx, cost); err != nil {
		return cloud.Volume{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.singles++
	c.reads = append(c.reads, time.Now())
	if c.err != nil {
		return cloud.Volume{}, c.err
	}
	if !c.exists(id) {
		return cloud.Volume{}, volume.Errorf(volume.KindNotFound, "no such volume")
	}
	return c.state(id), nil
}

func (c *clockwork) Volumes(ctx context.Context, page cloud.VolumePage) ([]cloud.Volume, string, error) {
	if err := operation.Sleep(ctx, c.cost); err != nil {
		return nil, "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages++
	c.reads = append(c.reads, time.Now())
	if err := errors.Join(c.err, c.pageErr); err != nil {
		return nil, "", volume.Wrap(err, "", "")
	}
	var vs []cloud.Volume
	for id := range c.at {
		if c.exists(id) {
			vs = append(vs, c.state(id))
		}
	}
	slices.SortFunc(vs, func(a, b cloud.Volume) int { return b.UpdatedAt.Compare(a.UpdatedAt) })
	return vs[:min(len(vs), page.Limit)], "", nil
}

// later says when a volume of the test changes.
func (c *clockwork) later(id string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[id] = time.Now().Add(d)
}

func testPoller(c reader) *poller { return newPoller(c, slog.New(slog.DiscardHandler)) }

func isAvailable(v cloud.Volume) (bool, error) { return v.Status == stateAvailable, nil }

// checkIdle fails when the poller goes on although nobody waits.
func checkIdle(t *testing.T, p *poller) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil || len(p.waits) != 0 {
		t.Errorf("the poller goes on with %d waits", len(p.waits))
	}
}

func TestPollerLooksEarlyAndThenLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		p := testPoller(c)
		began := time.Now()
		c.later("v", 10*time.Second)
		v, err := p.await(t.Context(), "v", "extend", isAvailable)
		if err != nil || v.Size != 2 {
			t.Fatalf("%+v, %v", v, err)
		}
		if first := c.reads[0].Sub(began); first < 40*time.Millisecond || first > 60*time.Millisecond {
			t.Errorf("the first look came after %s", first)
		}
		if c.singles > 30 || c.pages != 0 {
			t.Errorf("%d single looks and %d pages for one wait of 10 s", c.singles, c.pages)
		}
		for i := 1; i < len(c.reads); i++ {
			if gap := c.reads[i].Sub(c.reads[i-1]); gap > longestStep*12/10 || gap > 3*time.Second {
				t.Errorf("a gap of %s", gap)
			}
		}
		checkIdle(t, p)
	})
}

// Once it is known how long an operation takes, the looks begin near that time:
// fewer calls and less delay.
func TestPollerLearnsWhenToLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		p := testPoller(c)
		var late time.Duration
		for i := range 60 {
			if i == 40 {
				c.singles, late = 0, 0
			}
			took := 300*time.Millisecond + time.Duration(i%5-2)*20*time.Millisecond
			began := time.Now()
			c.later("v", took)
			if _, err := p.await(t.Context(), "v", "extend", isAvailable); err != nil {
				t.Fatal(err)
			}
			late += time.Since(began) - took
		}
		if mean := late / 20; mean > 60*time.Millisecond {
			t.Errorf("%s late on average", mean)
		}
		if c.singles > 20*3 {
			t.Errorf("%d looks for 20 operations", c.singles)
		}
	})
}

func TestPollerSharesPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		c.cost = 30 * time.Millisecond
		p := testPoller(c)
		const n = 500
		var wg sync.WaitGroup
		var mu sync.Mutex
		var late time.Duration
		for i := range n {
			id := fmt.Sprint(i)
			took := 300*time.Millisecond + time.Duration(i%100)*time.Millisecond
			wg.Go(func() {
				began := time.Now()
				c.later(id, took)
				if _, err := p.await(t.Context(), id, "extend", isAvailable); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				late += time.Since(began) - took
			})
		}
		wg.Wait()
		if c.singles > 10 || c.pages > 20 {
			t.Errorf("%d single looks and %d pages for %d waits", c.singles, c.pages, n)
		}
		if mean := late / n; mean > 150*time.Millisecond {
			t.Errorf("%s late on average", mean)
		}
		checkIdle(t, p)
	})
}

// Volumes that have gone are on no page.
func TestPollerReadsOneByOneWhatIsOnNoPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range 100 {
			id := fmt.Sprint(i)
			wg.Go(func() {
				c.later(id, time.Hour)
				c.mu.Lock()
				c.gone[id] = time.Now().Add(200 * time.Millisecond)
				c.mu.Unlock()
				_, err := p.await(t.Context(), id, "delete", func(cloud.Volume) (bool, error) { return false, nil })
				if !volume.IsKind(err, volume.KindNotFound) {
					t.Errorf("%v, want NotFound", err)
				}
			})
		}
		began := time.Now()
		wg.Wait()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("100 deletions of 200 ms were seen after %s", took)
		}
		if c.singles > 110 {
			t.Errorf("%d single looks for 100 volumes", c.singles)
		}
		checkIdle(t, p)
	})
}

// A volume that a page lacks is gone only if Cinder says so when it is asked for
// that volume: a listing may come from a database that lags.
func TestPollerDoesNotTakeAbsenceFromAPageForGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range 2 * severalVolume {
			id := fmt.Sprint(i) // without a time in the clockwork it is on no page, and exists
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, err := p.await(ctx, id, "delete", func(v cloud.Volume) (bool, error) { return v.ID == "", nil })
				if !volume.IsKind(err, volume.KindDeadline) {
					t.Errorf("%v, want a deadline", err)
				}
			})
		}
		wg.Wait()
		if c.pages == 0 {
			t.Error("no page was read")
		}
		checkIdle(t, p)
	})
}

func TestPollerBacksOffWhileTheCloudDoesNotAnswer(t *testing.T) {
	for name, several := range map[string]int{"one": 1, "several": 5} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newClockwork()
				c.err = volume.Errorf(volume.KindUnavailable, "the cloud is down")
				p := testPoller(c)
				var wg sync.WaitGroup
				for i := range several {
					wg.Go(func() {
						id := fmt.Sprint(i)
						c.later(id, 0)
						if _, err := p.await(t.Context(), id, "extend", isAvailable); err != nil {
							t.Error(err)
						}
					})
				}
				time.Sleep(time.Minute) //nolint:forbidigo // the time of the bubble, which passes at once
				synctest.Wait()
				c.mu.Lock()
				calls := c.singles + c.pages
				c.err = nil
				c.mu.Unlock()
				if calls > 20 || calls < 5 {
					t.Errorf("%d calls in a minute to a cloud that does not answer", calls)
				}
				wg.Wait()
				checkIdle(t, p)
			})
		})
	}
}

// A cloud that cannot list so is polled one by one.
func TestPollerDoesWithoutPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		c.pageErr = volume.Errorf(volume.KindInvalid, "sort keys are not allowed")
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				id := fmt.Sprint(i)
				c.later(id, 100*time.Millisecond)
				if _, err := p.await(t.Context(), id, "extend", isAvailable); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		checkIdle(t, p)
	})
}

func TestPollerEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		p := testPoller(c)
		c.later("v", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := p.await(ctx, "v", "extend", isAvailable)
		wantKind(t, err, volume.KindDeadline, "extending", "1 GiB")
		if ctx.Err() != nil {
			t.Error("the wait ended with the context, not a little before")
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = p.await(canceled, "v", "extend", isAvailable)
		wantKind(t, err, volume.KindCanceled)
		checkIdle(t, p)
	})
}

// Who has little time gets a reading all the same.
func TestPollerLooksBeforeTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		p := testPoller(c)
		p.usual["extend"] = time.Minute
		c.later("v", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := p.await(ctx, "v", "extend", isAvailable)
		wantKind(t, err, volume.KindDeadline, "extending")
		checkIdle(t, p)
	})
}

// A reading that was asked for before a wait began may show the state from
// before the request: the wait must not get it.
func TestPollerHandsOutNoReadingFromBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		c.cost = time.Second
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range severalVolume {
			id := fmt.Sprint(i)
			c.later(id, time.Minute)
			wg.Go(func() {
				if _, err := p.await(t.Context(), id, "extend", isAvailable); err != nil {
					t.Error(err)
				}
			})
		}
		c.later("late", time.Hour)
		time.Sleep(500 * time.Millisecond) //nolint:forbidigo // the time of the bubble: a page is under way
		began := time.Now()
		_, err := p.await(t.Context(), "late", "extend", func(cloud.Volume) (bool, error) { return true, nil })
		if took := time.Since(began); err != nil || took < c.cost {
			t.Errorf("a reading after %s, %v; it was under way before", took, err)
		}
		wg.Wait()
	})
}

func TestPollerPassesOnErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		p := testPoller(c)
		c.later("v", 0)
		mine := errors.New("mine")
		if _, err := p.await(t.Context(), "v", "extend", func(cloud.Volume) (bool, error) { return false, mine }); !errors.Is(err, mine) {
			t.Errorf("%v", err)
		}
		c.err = volume.Errorf(volume.KindDenied, "no")
		_, err := p.await(t.Context(), "v", "extend", isAvailable)
		wantKind(t, err, volume.KindDenied)
		checkIdle(t, p)
	})
}

// One call that hangs holds up the others for a moment only; and a cloud that
// is as slow as that is waited for.
func TestPollerIsNotHeldUpByOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClockwork()
		c.hangs = "hangs"
		p := testPoller(c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := p.await(ctx, "hangs", "extend", isAvailable)
			wantKind(t, err, volume.KindDeadline)
		})
		c.later("v", 100*time.Millisecond)
		began := time.Now()
		if _, err := p.await(ctx, "v", "extend", isAvailable); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("an extension of 100 ms was seen after %s", took)
		}
		wg.Wait()
		c.cost = longestLook * 9 / 10
		c.later("slow", time.Second)
		if _, err := p.await(t.Context(), "slow", "extend", isAvailable); err != nil {
			t.Error(err)
		}
		checkIdle(t, p)
	})
}

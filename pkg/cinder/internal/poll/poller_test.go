package poll

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

	"github.com/growvol/growvol/pkg/cinder/internal/cindertest"
	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/operation"
	"github.com/growvol/growvol/pkg/volume"
)

// timedCloud is a Reader whose volumes become available at a given time. Its tests run in a
// bubble of synctest, whose clock does not wait.
type timedCloud struct {
	Reader // nil: the tests call Volume and Volumes only

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

func newTimedCloud() *timedCloud {
	return &timedCloud{at: make(map[string]time.Time), gone: make(map[string]time.Time)}
}

func (c *timedCloud) state(id string) cloud.Volume {
	v := cloud.Volume{ID: id, Status: "extending", Size: 1}
	if at, ok := c.at[id]; ok && !time.Now().Before(at) {
		v.Status, v.Size, v.UpdatedAt = "available", 2, at
	}
	return v
}

func (c *timedCloud) exists(id string) bool {
	at, ok := c.gone[id]
	return !ok || time.Now().Before(at)
}

func (c *timedCloud) Volume(ctx context.Context, id string) (cloud.Volume, error) {
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

func (c *timedCloud) Volumes(ctx context.Context, page cloud.VolumePage) ([]cloud.Volume, string, error) {
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

// changeAfter sets when a volume becomes available.
func (c *timedCloud) changeAfter(id string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[id] = time.Now().Add(d)
}

func testPoller(api Reader) *Poller { return newPoller(api, slog.New(slog.DiscardHandler)) }

func isAvailable(v cloud.Volume) bool { return v.Status == "available" }

// checkIdle fails the test if the poller still runs or holds waits.
func checkIdle(t *testing.T, p *Poller) {
	t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop != nil || len(p.waits) != 0 {
		t.Errorf("the poller is not idle: it holds %d waits, want 0 and no goroutine", len(p.waits))
	}
}

func TestPollerReadsSoonAndThenAtGrowingIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		p := testPoller(c)
		began := time.Now()
		c.changeAfter("v", 10*time.Second)
		v, err := p.Await(t.Context(), "v", "extend", isAvailable)
		if err != nil || v.Size != 2 {
			t.Fatalf("%+v, %v", v, err)
		}
		if first := c.reads[0].Sub(began); first < 40*time.Millisecond || first > 60*time.Millisecond {
			t.Errorf("the first read came after %s, want 40 to 60 ms", first)
		}
		if c.singles > 30 || c.pages != 0 {
			t.Errorf("%d single reads and %d pages for one wait of 10 s, want at most 30 and 0", c.singles, c.pages)
		}
		for i := 1; i < len(c.reads); i++ {
			if gap := c.reads[i].Sub(c.reads[i-1]); gap > maxInterval*12/10 || gap > 3*time.Second {
				t.Errorf("%s between two reads, want at most 3 s", gap)
			}
		}
		checkIdle(t, p)
	})
}

// When the poller knows how long an operation takes, it reads first near that time: fewer
// requests and less delay.
func TestPollerReadsFirstNearTheUsualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		p := testPoller(c)
		var delay time.Duration
		for i := range 60 {
			if i == 40 {
				c.singles, delay = 0, 0
			}
			took := 300*time.Millisecond + time.Duration(i%5-2)*20*time.Millisecond
			began := time.Now()
			c.changeAfter("v", took)
			if _, err := p.Await(t.Context(), "v", "extend", isAvailable); err != nil {
				t.Fatal(err)
			}
			delay += time.Since(began) - took
		}
		if mean := delay / 20; mean > 60*time.Millisecond {
			t.Errorf("%s late on average, want at most 60 ms", mean)
		}
		if c.singles > 20*3 {
			t.Errorf("%d reads for 20 operations, want at most 60", c.singles)
		}
	})
}

func TestPollerReadsManyVolumesByPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		c.cost = 30 * time.Millisecond
		p := testPoller(c)
		const n = 500
		var wg sync.WaitGroup
		var mu sync.Mutex
		var delay time.Duration
		for i := range n {
			id := fmt.Sprint(i)
			took := 300*time.Millisecond + time.Duration(i%100)*time.Millisecond
			wg.Go(func() {
				began := time.Now()
				c.changeAfter(id, took)
				if _, err := p.Await(t.Context(), id, "extend", isAvailable); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				delay += time.Since(began) - took
			})
		}
		wg.Wait()
		if c.singles > 10 || c.pages > 20 {
			t.Errorf("%d single reads and %d pages for %d waits, want at most 10 and 20", c.singles, c.pages, n)
		}
		if mean := delay / n; mean > 150*time.Millisecond {
			t.Errorf("%s late on average, want at most 150 ms", mean)
		}
		checkIdle(t, p)
	})
}

// Volumes that are gone are on no page.
func TestPollerReadsVolumesThatAreOnNoPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range 100 {
			id := fmt.Sprint(i)
			wg.Go(func() {
				c.changeAfter(id, time.Hour)
				c.mu.Lock()
				c.gone[id] = time.Now().Add(200 * time.Millisecond)
				c.mu.Unlock()
				_, err := p.Await(t.Context(), id, "delete", func(cloud.Volume) bool { return false })
				if !volume.IsKind(err, volume.KindNotFound) {
					t.Errorf("error %v, want kind NotFound", err)
				}
			})
		}
		began := time.Now()
		wg.Wait()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("100 deletions of 200 ms were seen after %s, want at most 3 s", took)
		}
		if c.singles > 110 {
			t.Errorf("%d single reads for 100 volumes, want at most 110", c.singles)
		}
		checkIdle(t, p)
	})
}

// A volume that is not on a page is gone only if Cinder answers so to a request for that
// volume: the page may come from a replica that lags.
func TestPollerDoesNotReportGoneForAVolumeOnNoPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range 2 * pageThreshold {
			id := fmt.Sprint(i) // without a time of change the volume exists and is on no page
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, err := p.Await(ctx, id, "delete", func(v cloud.Volume) bool { return v.ID == "" })
				if !volume.IsKind(err, volume.KindDeadline) {
					t.Errorf("error %v, want kind Deadline", err)
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
				c := newTimedCloud()
				c.err = volume.Errorf(volume.KindUnavailable, "the cloud is down")
				p := testPoller(c)
				var wg sync.WaitGroup
				for i := range several {
					wg.Go(func() {
						id := fmt.Sprint(i)
						c.changeAfter(id, 0)
						if _, err := p.Await(t.Context(), id, "extend", isAvailable); err != nil {
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
					t.Errorf("%d requests in a minute to a cloud that does not answer, want 5 to 20", calls)
				}
				wg.Wait()
				checkIdle(t, p)
			})
		})
	}
}

// The poller reads the volumes of a cloud that refuses its pages one by one.
func TestPollerReadsOneByOneWhenPagesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		c.pageErr = volume.Errorf(volume.KindInvalid, "sort keys are not allowed")
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				id := fmt.Sprint(i)
				c.changeAfter(id, 100*time.Millisecond)
				if _, err := p.Await(t.Context(), id, "extend", isAvailable); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		checkIdle(t, p)
	})
}

// pkg/csiserver ends the context of a call before the deadline of its caller.
func TestPollerEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		p := testPoller(c)
		c.changeAfter("v", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := p.Await(ctx, "v", "extend", isAvailable)
		cindertest.CheckKind(t, err, volume.KindDeadline, "extending", "1 GiB")
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = p.Await(canceled, "v", "extend", isAvailable)
		cindertest.CheckKind(t, err, volume.KindCanceled)
		checkIdle(t, p)
	})
}

// A caller with little time still gets a reading.
func TestPollerReadsBeforeAShortContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		p := testPoller(c)
		p.estimates["extend"] = time.Minute
		c.changeAfter("v", time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := p.Await(ctx, "v", "extend", isAvailable)
		cindertest.CheckKind(t, err, volume.KindDeadline, "extending")
		checkIdle(t, p)
	})
}

// A reading whose request was sent before a wait began may show the state before the
// caller's request: the wait must not get it.
func TestPollerDeliversNoReadingFromBeforeTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		c.cost = time.Second
		p := testPoller(c)
		var wg sync.WaitGroup
		for i := range pageThreshold {
			id := fmt.Sprint(i)
			c.changeAfter(id, time.Minute)
			wg.Go(func() {
				if _, err := p.Await(t.Context(), id, "extend", isAvailable); err != nil {
					t.Error(err)
				}
			})
		}
		c.changeAfter("late", time.Hour)
		time.Sleep(500 * time.Millisecond) //nolint:forbidigo // the time of the bubble: a page is under way
		began := time.Now()
		_, err := p.Await(t.Context(), "late", "extend", func(cloud.Volume) bool { return true })
		if took := time.Since(began); err != nil || took < c.cost {
			t.Errorf(
				"a reading after %s and error %v, want one after %s or more: that request was sent before the wait", took, err,
				c.cost,
			)
		}
		wg.Wait()
	})
}

func TestPollerReturnsErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		p := testPoller(c)
		c.changeAfter("v", 0)
		c.err = volume.Errorf(volume.KindDenied, "no")
		_, err := p.Await(t.Context(), "v", "extend", isAvailable)
		cindertest.CheckKind(t, err, volume.KindDenied)
		checkIdle(t, p)
	})
}

// A read that hangs delays the others for a moment only, and the poller still waits for a
// cloud that is almost as slow.
func TestPollerIsNotDelayedByOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTimedCloud()
		c.hangs = "hangs"
		p := testPoller(c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := p.Await(ctx, "hangs", "extend", isAvailable)
			cindertest.CheckKind(t, err, volume.KindDeadline)
		})
		c.changeAfter("v", 100*time.Millisecond)
		began := time.Now()
		if _, err := p.Await(ctx, "v", "extend", isAvailable); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("an extension of 100 ms was seen after %s, want at most 1 s", took)
		}
		wg.Wait()
		c.cost = maxReadTimeout * 9 / 10
		c.changeAfter("slow", time.Second)
		if _, err := p.Await(t.Context(), "slow", "extend", isAvailable); err != nil {
			t.Error(err)
		}
		checkIdle(t, p)
	})
}

package poll

import (
	"context"
	"time"

	"github.com/growvol/growvol/pkg/cinder/internal/cloud"
	"github.com/growvol/growvol/pkg/volume"
)

// poll is one tick of the polling goroutine: it reads the volumes of the waits that are due. A wait
// gets only readings whose request was sent after the wait was added: an earlier reading could show
// the state before the caller's request.
func (p *Poller) poll(ctx context.Context, due, all []*wait) {
	ids := byID(due)
	if len(ids) < pageThreshold {
		p.throttle(0, p.readEach(ctx, ids))
		p.reschedule(due)
		return
	}
	onPage, ok := p.readPage(ctx, due, all)
	if !ok {
		return // all waits stay due; throttle has set the time of the next read
	}
	// A volume that has not changed recently, or is gone, is not on the page. Each tick reads some
	// of these one by one.
	var done []*wait
	missing := make(map[string][]*wait)
	for _, w := range due {
		if !onPage[w.id] && (missing[w.id] != nil || len(missing) < maxReadsPerTick) {
			missing[w.id] = append(missing[w.id], w)
			done = append(done, w)
		}
	}
	if len(missing) > 0 && p.readEach(ctx, missing) {
		p.throttle(0, true)
	}
	for _, w := range all {
		if onPage[w.id] {
			done = append(done, w)
		}
	}
	p.reschedule(done)
}

// readPage reads a page of the volumes that changed last and delivers each volume to its waits. It
// returns the ids of the volumes on the page that have waits. ok is false if the cloud did not
// answer (readPage then delivers the error to the waits that are due) or the last wait has ended.
func (p *Poller) readPage(ctx context.Context, due, all []*wait) (onPage map[string]bool, ok bool) {
	limited, cancel := context.WithTimeout(ctx, p.pageTimeout())
	defer cancel()
	start := time.Now()
	page := cloud.VolumePage{Limit: min(2*len(all)+8, maxPageSize), NewestChangeFirst: true}
	vs, _, err := p.api.Volumes(limited, page)
	if ctx.Err() != nil {
		return nil, false // the last wait has ended
	}
	p.throttle(time.Since(start), err != nil)
	if err != nil {
		p.log.DebugContext(ctx, "cannot list the volumes that callers wait for", "error", err)
		if isTransient(err) {
			for _, w := range due {
				w.deliver(reading{err: err, at: start})
			}
			return nil, false
		}
		return nil, true // this cloud does not support such a page; poll reads the volumes one by one
	}
	waits := byID(all)
	onPage = make(map[string]bool, len(waits))
	for _, v := range vs {
		for _, w := range waits[v.ID] {
			w.deliver(reading{volume: v, at: start})
			onPage[v.ID] = true
		}
	}
	return onPage, true
}

// readEach reads volumes one by one, maxReadsPerTick/2 at a time, and reports whether the cloud
// failed to answer. It returns after slowReadTimeout at the latest, so that a slow read does not
// delay the waits for other volumes; that read continues on its own goroutine.
func (p *Poller) readEach(ctx context.Context, ids map[string][]*wait) (hasFailed bool) {
	slots := make(chan struct{}, maxReadsPerTick/2)
	results := make(chan error, len(ids))
	timeout := time.NewTimer(slowReadTimeout)
	defer timeout.Stop()
	started := 0
	for id, waits := range ids {
		select {
		case slots <- struct{}{}:
		case <-timeout.C:
			return false // the next tick reads the rest
		}
		if _, isRunning := p.reading.LoadOrStore(id, true); isRunning {
			<-slots
			continue
		}
		started++
		go func() {
			err := p.read(ctx, id, waits)
			p.reading.Delete(id)
			<-slots
			results <- err
		}()
	}
	for range started {
		select {
		case err := <-results:
			hasFailed = hasFailed || isTransient(err)
		case <-timeout.C:
			return hasFailed
		}
	}
	return hasFailed
}

// read reads one volume and delivers it to its waits. It returns the error of the request.
func (p *Poller) read(ctx context.Context, id string, waits []*wait) error {
	limited, cancel := context.WithTimeout(ctx, maxReadTimeout)
	defer cancel()
	r := reading{at: time.Now()}
	r.volume, r.err = p.api.Volume(limited, id)
	if ctx.Err() != nil {
		return nil // the last wait has ended
	}
	if isTransient(r.err) {
		p.log.DebugContext(ctx, "cannot read a volume that callers wait for", "volume", id, "error", r.err)
		if time.Since(r.at) >= slowReadTimeout {
			p.throttle(0, true) // readEach has returned and does not see this failure
		}
	}
	for _, w := range waits {
		w.deliver(r)
	}
	return r.err
}

// isTransient reports whether another read may succeed: the cloud is unavailable, or did not answer
// within the timeout of the read.
func isTransient(err error) bool {
	return volume.IsKind(err, volume.KindUnavailable) || volume.IsKind(err, volume.KindDeadline)
}

func byID(waits []*wait) map[string][]*wait {
	ids := make(map[string][]*wait, len(waits))
	for _, w := range waits {
		ids[w.id] = append(ids[w.id], w)
	}
	return ids
}
